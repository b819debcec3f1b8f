"""The real API server takes the CRDs, explains them, and accepts what it should. What it refuses is in
`test_bad_input_refused`."""

import copy
import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from cluster import Cluster
from support.resources import model_deployment, training_job

CONCURRENCY = {"type": "Concurrency", "target": "8"}

ACCEPTED: dict[str, dict[str, Any]] = {
    "plain": model_deployment(),
    "longest name": model_deployment("a" * 52),
    "everything": model_deployment(
        model={
            "uri": "s3://b/k",
            "format": "TorchScript",
            "version": "2026-11-01",
            "sha256": "0" * 64,
            "secretRef": {"name": "s"},
        },
        runtime={"torch": {"maxBatchSize": 1, "device": "CUDA"}},
        resources={
            "gpus": 1,
            "gpuResource": "amd.com/gpu",
            "requests": {"cpu": 2, "memory": "1Gi"},
            "limits": {"cpu": "2000m"},
        },
        replicas=0,
        drain={"timeoutSeconds": 0},
        podTemplate={"spec": {"containers": [{"name": "server", "anything": {"goes": [None]}}]}},
    ),
    "two metrics": model_deployment(
        scaling={"maxReplicas": 4, "metrics": [CONCURRENCY, {"type": "Prometheus", "query": "up", "target": 3}]}
    ),
    "container alone": model_deployment(model=None, runtime={"container": {"image": "x", "port": 80}}),
    "secured": model_deployment(
        runtime={"torch": {"tlsSecretRef": {"name": "tls"}, "tokenSecretRef": {"name": "clients", "key": "a.b-c"}}}
    ),
    "Triton": model_deployment(
        model={"uri": "pvc://models/digits/1", "version": "12"},
        runtime={"triton": {"maxQueueSize": 7, "preferredBatchSizes": [8], "args": ["--x"]}},
    ),
    "training": training_job(),
    "script without data and output": training_job(trainer={"script": {"command": ["true"]}}, data=None, output=None),
    "another alphabet": model_deployment(
        model={"uri": "pvc://models/Zahlen/größe-七"},
        podTemplate={"metadata": {"annotations": {"example.com/owner": "Ægir 🚢"}}},
    ),
}


def send(api: Cluster, obj: dict[str, Any], *options: str) -> str:
    return api.kubectl("apply", "--server-side", "--validate=strict", *options, "-f", "-", input=json.dumps(obj))


@pytest.mark.parametrize("case", ACCEPTED)
def test_accepted(api: Cluster, case: str) -> None:
    send(api, ACCEPTED[case], "--dry-run=server")


@pytest.fixture(scope="module")
def trained(api: Cluster) -> Iterator[dict[str, Any]]:
    """A TrainingJob that exists, where no operator looks."""
    namespace = f"crd-test-{uuid.uuid4().hex[:6]}"
    api.kubectl("create", "namespace", namespace)
    obj = training_job("fixed")
    obj["metadata"]["namespace"] = namespace
    send(api, obj)
    yield obj
    api.kubectl("delete", "namespace", namespace, "--wait=false")


def test_what_may_change_after_creation(api: Cluster, trained: dict[str, Any]) -> None:
    changed = copy.deepcopy(trained)
    changed["spec"] |= {
        "resources": {"requests": {"cpu": "1"}},
        "podTemplate": {"spec": {"priorityClassName": "high"}},
        "activeDeadlineSeconds": 60,
        "ttlSecondsAfterFinished": 60,
    }
    send(api, changed, "--dry-run=server")


EXPLAINED = [
    "mdep",
    "mdep.spec",
    "mdep.spec.model.uri",
    "mdep.spec.model.fromTrainingJobs",
    "mdep.spec.runtime.torch",
    "mdep.spec.runtime.triton.maxQueueSize",
    "mdep.spec.runtime.container.env",
    "mdep.spec.resources",
    "mdep.spec.scaling.metrics",
    "mdep.spec.podTemplate",
    "mdep.status.conditions",
    "mdep.status.scaling.history",
    "tjob",
    "tjob.spec.trainer.recipe.model",
    "tjob.spec.trainer.script",
    "tjob.spec.output",
    "tjob.status.progress",
    "tjob.status.lastFailure",
]


@pytest.mark.parametrize("path", EXPLAINED)
def test_kubectl_explains(api: Cluster, path: str) -> None:
    text = api.kubectl("explain", path)
    assert "DESCRIPTION:" in text
    assert "<empty>" not in text
    assert "<no description>" not in text


def test_defaults_are_written_where_a_block_is_given(api: Cluster) -> None:
    stored = json.loads(send(api, model_deployment(), "--dry-run=server", "-o", "json"))
    assert stored["spec"]["runtime"]["torch"] == {
        "maxBatchSize": 64,
        "maxQueueDelayMicroseconds": 0,
        "maxQueueSize": 1024,
        "maxBodyBytes": 67108864,
        "device": "Auto",
    }
    assert "replicas" not in stored["spec"]
    assert "format" not in stored["spec"]["model"]


def test_short_names_category_and_columns(api: Cluster, trained: dict[str, Any]) -> None:
    namespace = trained["metadata"]["namespace"]
    assert "fixed" in api.kubectl("get", "moorage", "-n", namespace)
    header = api.kubectl("get", "tjob", "-n", namespace).splitlines()[0].split()
    assert header == ["NAME", "SUCCEEDED", "REASON", "WORKERS", "PROGRESS", "ETA", "AGE"]
