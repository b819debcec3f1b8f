"""TLS and tokens, with the official clients before a real server; and both renewed while it serves."""

import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
from cryptography import x509
from tritonclient import grpc as triton
from tritonclient.utils import InferenceServerException

from moorage_server.security import LOOK_SECONDS
from support.tls import certificate

from .conftest import FEATURES, Server, Start, fp32

BODY = {"inputs": [fp32([[0.5] * FEATURES])]}
TOKEN, OTHER = "a-token-of-some-length", "another-one"


@dataclass
class Secured:
    server: Server
    tls: Path
    tokens: Path

    @property
    def url(self) -> str:
        return f"https://localhost:{self.server.ports['http']}"

    @property
    def address(self) -> str:
        return f"localhost:{self.server.ports['http']}"

    @property
    def trusted(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.tls / "tls.crt"))

    def ask(self, token: str | None = TOKEN, scheme: str = "Bearer") -> httpx.Response:
        headers = {} if token is None else {"Authorization": f"{scheme} {token}".encode()}
        url = self.url + self.server.infer_path
        return httpx.post(url, json=BODY, headers=headers, verify=self.trusted, timeout=30)


@pytest.fixture(scope="module")
def secured(start_server: Start, classifier: Path, tmp_path_factory: pytest.TempPathFactory) -> Secured:
    folder = tmp_path_factory.mktemp("secrets")
    certificate(folder / "tls", serial=1)
    (folder / "tokens").write_text(f"\n{TOKEN}\n  {OTHER}\n")
    server = start_server(classifier, MOORAGE_TLS_FOLDER=str(folder / "tls"), MOORAGE_TOKEN_FILE=str(folder / "tokens"))
    return Secured(server, folder / "tls", folder / "tokens")


def test_who_has_a_token_is_answered(secured: Secured) -> None:
    assert secured.ask().status_code == 200
    assert secured.ask(OTHER, "bearer").status_code == 200


@pytest.mark.parametrize("token", [None, "-", "a-token-of-some-lengtH", f"{TOKEN}x", "größe"])
def test_who_has_none_is_told_so(secured: Secured, token: str | None) -> None:
    answer = secured.ask(token)
    assert answer.status_code == 401 and "Authorization: Bearer" in answer.json()["error"]
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert secured.ask(TOKEN, "Basic").status_code == 401


def test_nothing_is_told_without_a_token_but_how_the_server_is(secured: Secured) -> None:
    with httpx.Client(base_url=secured.url, verify=secured.trusted) as client:
        assert client.get("/v2/health/ready").status_code == client.get("/v2/health/live").status_code == 200
        for path in ("/v2", "/v2/models/digits", "/v2/models/digits/ready", "/v2/models/other", "/nothing"):
            assert client.get(path).status_code == 401
        assert client.post("/v2/repository/index").status_code == 401


def test_grpc_has_the_same_rules(secured: Secured) -> None:
    x = np.zeros((1, FEATURES), np.float32)
    tensor = triton.InferInput("x", list(x.shape), "FP32")
    tensor.set_data_from_numpy(x)
    credentials = grpc.ssl_channel_credentials((secured.tls / "tls.crt").read_bytes())
    with triton.InferenceServerClient(secured.address, creds=credentials, ssl=True) as client:
        assert client.is_server_ready()
        told = {"authorization": f"Bearer {TOKEN}"}
        assert client.infer("digits", [tensor], headers=told).as_numpy("label").shape == (1,)
        for headers in (None, {"authorization": "Bearer wrong"}):
            with pytest.raises(InferenceServerException, match="bearer token is needed"):
                client.infer("digits", [tensor], headers=headers)
            with pytest.raises(InferenceServerException, match="bearer token is needed"):
                client.get_model_metadata("digits", headers=headers)


def test_without_tls_there_is_no_answer(secured: Secured) -> None:
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://localhost:{secured.server.ports['http']}/v2/health/live")
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(httpx.HTTPError):
        httpx.get(secured.url + "/v2/health/live", verify=old)


def eventually(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 3 * LOOK_SECONDS
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_both_are_renewed_while_it_serves(secured: Secured) -> None:
    def serial() -> int:
        pem = ssl.get_server_certificate(("localhost", secured.server.ports["http"]))
        return x509.load_pem_x509_certificate(pem.encode()).serial_number

    assert serial() == 1
    secured.tokens.write_text("the-next")
    eventually(lambda: secured.ask("the-next").status_code == 200)
    assert secured.ask(TOKEN).status_code == 401
    certificate(secured.tls, serial=2)
    eventually(lambda: serial() == 2)
    assert secured.ask("the-next").status_code == 200
    # What cannot be read does not take away what could.
    secured.tokens.write_text("\n")
    (secured.tls / "tls.crt").write_text("no certificate")
    secured.server.wait_for("cannot read the new one, the former still counts")
    assert serial() == 2
    certificate(secured.tls, serial=3)
    eventually(lambda: serial() == 3)
    # Nor what can be read and does not fit.
    former = (secured.tls / "tls.key").read_bytes()
    certificate(secured.tls, serial=4)
    (secured.tls / "tls.key").write_bytes(former)
    eventually(lambda: "KEY_VALUES_MISMATCH" in secured.server.log_file.read_text())
    assert serial() == 3
    certificate(secured.tls, serial=5)
    eventually(lambda: serial() == 5)
    assert secured.ask("the-next").status_code == 200
    assert TOKEN not in secured.server.log_file.read_text()


@pytest.mark.parametrize(
    ("variable", "content", "words"),
    [
        ("MOORAGE_TOKEN_FILE", "", "it has no token"),
        ("MOORAGE_TOKEN_FILE", None, "No such file"),
        ("MOORAGE_TLS_FOLDER", None, "No such file"),
    ],
)
def test_what_cannot_be_used_ends_the_start(
    start_server: Start, classifier: Path, tmp_path: Path, variable: str, content: str | None, words: str
) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_text(content)
    server = start_server(classifier, ready=False, **{variable: str(path)})
    assert server.process.wait(60) != 0
    assert server.termination["reason"] == "InvalidConfiguration" and words in server.termination["message"]
