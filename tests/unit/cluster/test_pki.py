"""The certificates are good for what they are used for, and the kubeconfigs lead where they should."""

import base64
import datetime
import ipaddress
import ssl
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from cluster.pki import USERS, Pki, node_user


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    made = Pki(tmp_path / "pki")
    made.create(["127.0.0.1", "10.96.0.1"], [*USERS, node_user("node1")])
    return made


def load(pki: Pki, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pki.path(f"{name}.crt").read_bytes())


@pytest.mark.parametrize("name", ["apiserver", "kubelet-client", "front-proxy"])
def test_each_is_signed_by_the_authority_and_fits_its_key(pki: Pki, name: str) -> None:
    certificate = load(pki, name)
    certificate.verify_directly_issued_by(load(pki, "ca"))
    key = load_pem_private_key(pki.path(f"{name}.key").read_bytes(), password=None)
    assert key.public_key() == certificate.public_key()
    assert certificate.not_valid_before_utc < datetime.datetime.now(datetime.UTC)


def test_the_server_may_be_called_by_every_address_it_is_reached_at(pki: Pki) -> None:
    names = load(pki, "apiserver").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert ipaddress.ip_address("10.96.0.1") in names.get_values_for_type(x509.IPAddress)
    assert "kubernetes.default.svc" in names.get_values_for_type(x509.DNSName)


def test_a_client_s_certificate_cannot_be_a_server_s(pki: Pki) -> None:
    usage = load(pki, "kubelet-client").extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_python_s_own_tls_accepts_the_authority(pki: Pki) -> None:
    trust = ssl.create_default_context(cafile=str(pki.path("ca.crt")))
    assert trust.cert_store_stats()["x509_ca"] == 1


def test_a_kubeconfig_holds_address_authority_and_the_user_s_token(pki: Pki, tmp_path: Path) -> None:
    path = pki.write_kubeconfig(tmp_path / "sub" / "config", "admin", "https://127.0.0.1:1")
    config = yaml.safe_load(path.read_text())
    cluster = config["clusters"][0]["cluster"]
    assert cluster["server"] == "https://127.0.0.1:1"
    assert base64.b64decode(cluster["certificate-authority-data"]) == pki.path("ca.crt").read_bytes()
    assert config["users"][0]["user"]["token"] == pki.token("admin")
    assert path.stat().st_mode & 0o077 == 0


def test_tokens_are_secret_and_everybody_s_own(pki: Pki) -> None:
    tokens = {pki.token(name) for name in ("admin", "kube-scheduler", "node1")}
    assert len(tokens) == 3
    assert pki.folder.stat().st_mode & 0o077 == 0


def test_what_is_there_stays(pki: Pki) -> None:
    before = pki.token("admin")
    pki.create(["127.0.0.1"], USERS)
    assert pki.token("admin") == before


def test_what_a_killed_run_left_half_made_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "pki.unfinished").mkdir()
    (tmp_path / "pki.unfinished" / "ca.key").write_text("half")
    made = Pki(tmp_path / "pki")
    made.create(["127.0.0.1"], USERS)
    load(made, "ca")
