"""What cannot be served says why, in the words of whoever knows: server, kubelet, scheduler or registry."""

import json
from typing import Any

import pytest
import yaml

from cluster import Cluster
from support import deploy

SMALL = {"requests": {"cpu": "10m", "memory": "64Mi"}}


def deployment(name: str, **spec: Any) -> str:
    body = {"model": {"uri": "pvc://models/digits/1"}, "runtime": {"torch": {}}, "resources": SMALL, **spec}
    return yaml.safe_dump(
        {"apiVersion": "moorage.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": name}, "spec": body}
    )


CASES = {
    "no-such-claim": ({"model": {"uri": "pvc://nowhere/digits/1"}}, "Ready", "ClaimNotFound", "nowhere"),
    "no-such-folder": ({"model": {"uri": "pvc://models/not/here"}}, "ModelLoaded", "ModelNotFound", "not/here"),
    "wrong-digest": (
        {"model": {"uri": "pvc://models/digits/1", "sha256": "0" * 64}}, "ModelLoaded", "DigestMismatch", "0000",
    ),
    "not-a-model": ({"model": {"uri": "pvc://models/broken"}}, "ModelLoaded", "FormatMismatch", "model.pt2"),
    "triton-not-a-model": (
        {"model": {"uri": "pvc://models/broken"}, "runtime": {"triton": {}}}, "ModelLoaded", None, "model",
    ),
    "no-such-image": (
        {"runtime": {"container": {"image": "registry.invalid/no/such:1", "port": 8080}}},
        "Ready", "ImagePullFailed", "registry.invalid/no/such:1",
    ),
    "unreachable-url": (
        {"model": {"uri": "http://nowhere.invalid/model.tar.gz"}}, "ModelLoaded", "FetchFailed", "nowhere.invalid",
    ),
    "no-such-secret": (
        {"model": {"uri": "s3://models/digits", "secretRef": {"name": "absent"}}}, "Ready", "SecretNotFound", "absent",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def broken_model(moorage: Cluster, images: dict[str, str], model: dict[str, object]) -> None:
    """`models/broken/model.pt2`: a file that is no model, put on the claim by a pod."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "put-broken-model"},
        "spec": {
            "restartPolicy": "Never",
            "containers": [
                {
                    "name": "put",
                    "image": images["torch"],
                    "command": ["sh", "-c", "mkdir -p /m/broken && head -c 100000 /dev/urandom > /m/broken/model.pt2"],
                    "volumeMounts": [{"name": "m", "mountPath": "/m"}],
                }
            ],
            "volumes": [{"name": "m", "persistentVolumeClaim": {"claimName": "models"}}],
        },
    }
    moorage.kubectl("apply", "-f", "-", input=yaml.safe_dump(pod))
    phase = "--for=jsonpath={.status.phase}=Succeeded"
    moorage.kubectl("wait", phase, "pod/put-broken-model", "--timeout=60s", timeout=70)
    moorage.kubectl("delete", "pod", "put-broken-model", "--now")


@pytest.mark.parametrize("name", CASES)
def test_failure_is_explained(moorage: Cluster, broken_model: None, name: str) -> None:
    spec, kind, reason, words = CASES[name]
    moorage.kubectl("apply", "-f", "-", input=deployment(name, **spec))
    try:
        obj = deploy.wait_for_condition(moorage, "modeldeployment", name, kind, "False", reason=reason, timeout=60)
        failed = deploy.condition(obj, kind)
        assert words in failed["message"], failed
        assert "CrashLoopBackOff" not in failed["message"]
        assert deploy.condition(obj, "Ready")["status"] == "False"
        if kind == "ModelLoaded":
            assert words in json.dumps(obj["status"]["lastFailure"])
    finally:
        moorage.kubectl("delete", "mdep", name)


def test_a_mended_model_deployment_recovers(moorage: Cluster, broken_model: None) -> None:
    moorage.kubectl("apply", "-f", "-", input=deployment("mended", model={"uri": "pvc://models/broken"}))
    try:
        deploy.wait_for_condition(moorage, "modeldeployment", "mended", "ModelLoaded", "False", timeout=60)
        moorage.kubectl("apply", "-f", "-", input=deployment("mended"))
        obj = deploy.wait_for_condition(moorage, "modeldeployment", "mended", "Ready", timeout=90)
        assert deploy.condition(obj, "ModelLoaded")["status"] == "True"
    finally:
        moorage.kubectl("delete", "mdep", "mended")


REFUSED = {
    "two runtimes": ({"runtime": {"torch": {}, "triton": {}}}, "exactly one"),
    "no runtime": ({"runtime": {}}, "exactly one"),
    "replicas beside scaling": (
        {"replicas": 2, "scaling": {"maxReplicas": 3, "metrics": [{"type": "Concurrency", "target": "2"}]}}, "replicas",
    ),
    "unknown scheme": ({"model": {"uri": "ftp://x/y"}}, "pvc://"),
    "negative GPUs": ({"resources": {"gpus": -1}}, "gpus"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_schema_can_see_is_refused_at_apply(moorage: Cluster, case: str) -> None:
    spec, words = REFUSED[case]
    with pytest.raises(Exception, match="(?i)" + words.replace("/", ".")):
        moorage.kubectl("apply", "--server-side", "-f", "-", input=deployment("refused", **spec))
