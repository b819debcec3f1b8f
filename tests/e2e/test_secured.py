"""A model over TLS and for those who bring a token, on real pods: their probes, the Service, both protocols."""

import base64
import json
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cluster import Cluster
from support import deploy, digits, infer, tls

from .test_kubectl_scale import manifest

NAME, TOKEN = "secured", "open-sesame"


@pytest.fixture
def served(moorage: Cluster, model: dict[str, object], tmp_path: Path) -> Iterator[Cluster]:
    tls.certificate(tmp_path, serial=1)
    files = {name: base64.b64encode((tmp_path / name).read_bytes()).decode() for name in ("tls.crt", "tls.key")}
    secrets = [
        {"metadata": {"name": f"{NAME}-tls"}, "type": "kubernetes.io/tls", "data": files},
        {"metadata": {"name": f"{NAME}-token"}, "stringData": {"token": TOKEN}},
    ]
    torch = {"tlsSecretRef": {"name": f"{NAME}-tls"}, "tokenSecretRef": {"name": f"{NAME}-token"}}
    for body in [json.dumps({"apiVersion": "v1", "kind": "Secret", **secret}) for secret in secrets]:
        moorage.kubectl("apply", "-n", "default", "-f", "-", input=body)
    body = manifest(NAME, "default", replicas=1, runtime={"torch": torch})
    moorage.kubectl("apply", "--server-side", "-f", "-", input=body)
    try:
        deploy.wait_for_condition(moorage, "modeldeployment", NAME, "Ready", timeout=120)
        yield moorage
    finally:
        moorage.kubectl("delete", "mdep", NAME)
        moorage.kubectl("delete", "secret", f"{NAME}-tls", f"{NAME}-token")


def test_answers_who_brings_a_token_and_nobody_else(served: Cluster, tmp_path: Path) -> None:
    x, _ = digits.held_out()
    trusted = ssl.create_default_context(cafile=str(tmp_path / "tls.crt"))
    trusted.check_hostname = False  # the door is at another address than the Service
    with served.door("default", NAME, 8080) as address:
        ask = httpx.Client(base_url=f"https://{address}", verify=trusted, timeout=30)
        body, path = infer.request_body(x[:1]), f"/v2/models/{NAME}/infer"
        assert ask.post(path, json=body).status_code == 401
        assert ask.post(path, json=body, headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    status = (deploy.get(served, "modeldeployment", NAME) or {})["status"]
    assert status["url"] == f"https://{NAME}.default.svc:8080"
