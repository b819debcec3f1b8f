"""On real pods: a model over TLS and for those who bring a token, and one that lies encrypted on its claim."""

import base64
import json
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cluster import Cluster
from cluster.interface import ClusterError
from support import deploy, digits, infer, tls

from .test_kubectl_scale import manifest

NAME, TOKEN = "secured", "open-sesame"
SEALED, KEY = "sealed", base64.b64encode(bytes(range(200, 232))).decode()


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


@pytest.fixture
def sealed(moorage: Cluster, model: dict[str, object], images: dict[str, str]) -> Iterator[Cluster]:
    """The digits model encrypted beside the one in the clear, by a Job that runs the command a person would."""
    key = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SEALED}, "data": {"key": KEY}}
    mounts = [{"name": "models", "mountPath": "/models"}, {"name": "key", "mountPath": "/key"}]
    encrypt = {
        "name": "encrypt",
        "image": images["torch"],
        "command": [
            "sh",
            "-c",
            "python -m moorage_store encrypt /models/digits/1 /models/sealed/1 --key /key/key --allow-existing",
        ],
        "volumeMounts": mounts,
    }
    volumes = [
        {"name": "models", "persistentVolumeClaim": {"claimName": "models"}},
        {"name": "key", "secret": {"secretName": SEALED}},
    ]
    owner = {"runAsUser": 65532, "fsGroup": 65532}
    pod = {"restartPolicy": "Never", "securityContext": owner, "containers": [encrypt], "volumes": volumes}
    job = {
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": SEALED},
        "spec": {"backoffLimit": 0, "template": {"spec": pod}},
    }  # fmt: skip
    moorage.kubectl("delete", "job", SEALED, "--ignore-not-found")  # of a run that was killed
    for body in (key, job):
        moorage.kubectl("apply", "-n", "default", "-f", "-", input=json.dumps(body))
    try:
        try:
            moorage.kubectl("wait", "--for=condition=Complete", f"job/{SEALED}", "--timeout=100s", timeout=120)
        except ClusterError as error:
            raise AssertionError(f"{error}\n{moorage.kubectl('logs', f'job/{SEALED}')}") from error
        yield moorage
    finally:
        moorage.kubectl("delete", "mdep,job,secret", SEALED, "--ignore-not-found")


def test_an_encrypted_model_is_served_to_who_has_its_key(sealed: Cluster) -> None:
    source = {"uri": f"pvc://models/{SEALED}/1"}
    apply = ("apply", "--server-side", "-f", "-")
    sealed.kubectl(*apply, input=manifest(SEALED, "default", model=source))
    deploy.wait_for_condition(sealed, "modeldeployment", SEALED, "Ready", "False", timeout=120)
    told = (deploy.get(sealed, "modeldeployment", SEALED) or {})["status"]["lastFailure"]
    assert told["reason"] in ("FormatMismatch", "ModelCorrupt"), "without the key it is noise"

    source = {**source, "decryptionKeyRef": {"name": SEALED}}
    sealed.kubectl(*apply, input=manifest(SEALED, "default", model=source))
    deploy.wait_for_condition(sealed, "modeldeployment", SEALED, "Ready", timeout=120)
    x, y = digits.held_out()
    with sealed.door("default", SEALED, 8080) as address:
        assert infer.over_http(address, SEALED, x).accuracy(y) >= 0.95
