"""Keys, certificates, tokens and kubeconfigs of one cluster, made once and gone with it.

Programs that speak TLS to each other have certificates of one authority; users (the administrator, the controllers,
the nodes) have random tokens. Nothing here is fit for a cluster that anybody else can reach.
"""

import base64
import csv
import datetime
import ipaddress
import secrets
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID_FOR = datetime.timedelta(days=3650)
SERVER_NAMES = (
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)
SIGNS_CERTIFICATES = x509.KeyUsage(
    digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
    data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
)  # fmt: skip


@dataclass(frozen=True)
class User:
    name: str  # of the files and the token
    user: str  # what Kubernetes calls it
    groups: tuple[str, ...] = ()


USERS = (
    User("admin", "admin", ("system:masters",)),
    User("kube-controller-manager", "system:kube-controller-manager"),
    User("kube-scheduler", "system:kube-scheduler"),
    User("kube-proxy", "system:kube-proxy"),
    User("kwok", "kwok", ("system:masters",)),
)


def node_user(node: str) -> User:
    return User(node, f"system:node:{node}", ("system:nodes",))


class Pki:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        return self.folder / name

    def create(self, addresses: Iterable[str], users: Iterable[User]) -> None:
        """Everything at once, unless it is there: it appears in one step, so a killed run leaves nothing half made."""
        if self.folder.exists():
            return
        unfinished = Pki(self.folder.with_suffix(".unfinished"))
        shutil.rmtree(unfinished.folder, ignore_errors=True)
        unfinished.folder.mkdir(parents=True, mode=0o700)
        unfinished._certificates(addresses)
        unfinished._tokens(users)
        unfinished.folder.rename(self.folder)

    def _certificates(self, addresses: Iterable[str]) -> None:
        authority_key = self._key("ca")
        authority = certificate("test-cluster-ca", (), authority_key, None, authority_key)
        self.path("ca.crt").write_bytes(pem(authority))
        server: list[x509.GeneralName] = [x509.DNSName(name) for name in SERVER_NAMES]
        server += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
        signed_ones: list[tuple[str, str, tuple[str, ...], list[x509.GeneralName]]] = [
            ("apiserver", "kube-apiserver", (), server),
            ("kubelet-client", "kube-apiserver-kubelet-client", ("system:masters",), []),
            ("front-proxy", "front-proxy", (), []),
        ]
        for name, common_name, organisations, names in signed_ones:
            key = self._key(name)
            signed = certificate(common_name, organisations, key, authority, authority_key, names)
            self.path(f"{name}.crt").write_bytes(pem(signed))
        service_accounts = self._key("service-accounts")
        self.path("service-accounts.pub").write_bytes(
            service_accounts.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )

    def _key(self, name: str) -> ec.EllipticCurvePrivateKey:
        key = ec.generate_private_key(ec.SECP256R1())
        self.path(f"{name}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.NoEncryption(),
            )
        )
        return key

    def _tokens(self, users: Iterable[User]) -> None:
        with self.path("tokens.csv").open("w", newline="") as file:
            for user in users:
                row = [secrets.token_urlsafe(24), user.user, user.name, ",".join(user.groups)]
                csv.writer(file, lineterminator="\n").writerow(row)

    def token(self, name: str) -> str:
        with self.path("tokens.csv").open(newline="") as file:
            return next(row[0] for row in csv.reader(file) if row[2] == name)

    def kubeconfig(self, name: str, server: str) -> str:
        authority = base64.b64encode(self.path("ca.crt").read_bytes()).decode()
        config: Mapping[str, object] = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "moorage", "cluster": {"server": server, "certificate-authority-data": authority}}],
            "users": [{"name": name, "user": {"token": self.token(name)}}],
            "contexts": [{"name": "moorage", "context": {"cluster": "moorage", "user": name}}],
            "current-context": "moorage",
        }
        return yaml.safe_dump(config, sort_keys=False)

    def write_kubeconfig(self, path: Path, name: str, server: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(self.kubeconfig(name, server))
        return path


def certificate(
    common_name: str,
    organisations: Iterable[str],
    key: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate | None,
    authority_key: ec.EllipticCurvePrivateKey,
    names: Iterable[x509.GeneralName] = (),
) -> x509.Certificate:
    """A certificate signed by the authority, or the authority's own."""
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation) for organisation in organisations]
    subject = x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(authority.subject if authority else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + VALID_FOR)
        .add_extension(x509.BasicConstraints(ca=authority is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
    )
    if authority is None:  # Python 3.13 and later demand it of an authority
        builder = builder.add_extension(SIGNS_CERTIFICATES, critical=True)
    else:
        usages = [ExtendedKeyUsageOID.SERVER_AUTH if names else ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(list(names)), critical=False)
    return builder.sign(authority_key, hashes.SHA256())


def pem(signed: x509.Certificate) -> bytes:
    return signed.public_bytes(serialization.Encoding.PEM)
