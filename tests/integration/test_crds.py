"""The real API server takes the CRDs, explains them, and refuses what it should, saying what to write instead."""

import copy
import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from cluster import Cluster
from cluster.interface import ClusterError
from moorage.api.crd import crds

URI = {"uri": "pvc://models/digits/1"}
CONCURRENCY = {"type": "Concurrency", "target": "8"}
RECIPE = {"recipe": {"task": "Classification", "target": "y"}}
OUTPUT = {"uri": "pvc://models/digits/1"}
DATA = {"uri": "configmap://digits/digits.npz"}

SERVING: dict[str, Any] = {"model": URI, "runtime": {"torch": {}}}
TRAINING: dict[str, Any] = {"trainer": RECIPE, "data": DATA, "output": OUTPUT}


def manifest(kind: str, spec: dict[str, Any], name: str = "crd-test") -> dict[str, Any]:
    return {"apiVersion": "moorage.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def serving(name: str = "crd-test", **spec: Any) -> dict[str, Any]:
    return manifest("ModelDeployment", {k: v for k, v in {**SERVING, **spec}.items() if v is not None}, name)


def training(name: str = "crd-test", **spec: Any) -> dict[str, Any]:
    return manifest("TrainingJob", {k: v for k, v in {**TRAINING, **spec}.items() if v is not None}, name)


def model(**fields: Any) -> dict[str, Any]:
    return serving(model={**URI, **fields})


def scaled(*metrics: dict[str, Any], **more: Any) -> dict[str, Any]:
    return serving(scaling={"maxReplicas": 4, "metrics": list(metrics or [CONCURRENCY]), **more})


def own(**spec: Any) -> dict[str, Any]:
    return serving(runtime={"container": {"image": "x", "port": 80, **spec.pop("container", {})}}, **spec)


# What is wrong, and words of the answer. Every CEL rule of the CRDs is here: a test below counts.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "name too long": (serving("a" * 53), "metadata.name may have at most 52 characters"),
    "name with a digit first": (serving("1a"), "metadata.name becomes the name of a Service"),
    "name with a dot": (serving("a.b"), "metadata.name becomes the name of a Service"),
    "two runtimes": (
        serving(runtime={"torch": {}, "triton": {}}),
        "exactly one of torch, triton, container must be set; got 2",
    ),
    "no runtime": (serving(runtime={}), "exactly one of torch, triton, container must be set; got 0"),
    "no model": (serving(model=None), "set model: only runtime.container may bring its model in the image"),
    "uri and training": (
        model(fromTrainingJobs={"matchLabels": {"a": "b"}}),
        "set exactly one of uri (serve this model) and fromTrainingJobs",
    ),
    "neither": (serving(model={}), "set exactly one of uri (serve this model) and fromTrainingJobs"),
    "format of training": (
        serving(model={"fromTrainingJobs": {"matchLabels": {"a": "b"}}, "format": "TorchScript"}),
        "leave format and sha256 out beside fromTrainingJobs",
    ),
    "scheme": (
        model(uri="ftp://x/y"),
        "write pvc://CLAIM/PATH, s3://BUCKET/KEY, http://HOST/PATH or https://HOST/PATH",
    ),
    "dots": (model(uri="pvc://models/../secret"), "a uri must not contain '..'"),
    "claim's name": (model(uri="pvc://Models_/x"), "with the name of a PersistentVolumeClaim of the same namespace"),
    "no key": (model(uri="s3://bucket"), "write s3://BUCKET/KEY"),
    "version": (model(version="1 beta"), "a version has letters, digits, '.', '_', '-'"),
    "sha256": (model(sha256="abc"), "write the 64 lower-case hexadecimal digits of sha256sum"),
    "torch repository": (model(format="TritonRepository"), "use runtime.triton for a TritonRepository"),
    "configured repository": (
        serving(model={**URI, "format": "TritonRepository"}, runtime={"triton": {"maxBatchSize": 8}}),
        "maxBatchSize, dynamicBatching and instanceCount must be absent with format TritonRepository",
    ),
    "Triton's version": (
        serving(model={**URI, "version": "v1"}, runtime={"triton": {}}),
        "Triton knows whole numbers only",
    ),
    "replicas and scaling": (
        {**scaled(), "spec": {**scaled()["spec"], "replicas": 2}},
        "spec.replicas: Forbidden: replicas must be absent when scaling",
    ),
    "bounds": (scaled(minReplicas=5), "minReplicas 5 is more than maxReplicas 4"),
    "query missing": (scaled({"type": "Prometheus", "target": "8"}), "set query with type Prometheus, and only there"),
    "query too many": (scaled({**CONCURRENCY, "query": "x"}), "set query with type Prometheus, and only there"),
    "target of zero": (scaled({"type": "Concurrency", "target": "0.0"}), "target must be greater than 0"),
    "target of zero, as a number": (scaled({"type": "Concurrency", "target": 0}), "target must be greater than 0"),
    "twice": (scaled(CONCURRENCY, CONCURRENCY), "Concurrency may be given once"),
    "concurrency of a container": (
        own(scaling={"maxReplicas": 4, "metrics": [CONCURRENCY]}),
        "a container's requests in flight are not known",
    ),
    "our variables": (own(container={"env": [{"name": "MOORAGE_X", "value": "1"}]}), "are set by the operator"),
    "GPU resource alone": (
        serving(resources={"gpuResource": "amd.com/gpu"}),
        "gpuResource names the device that gpus counts",
    ),
    "request beyond limit": (
        serving(resources={"requests": {"cpu": "2", "memory": "2Gi"}, "limits": {"memory": "1024Mi"}}),
        "each request must be at most its limit",
    ),
    "negative GPUs": (serving(resources={"gpus": -1}), "spec.resources.gpus"),
    "no trainer": (training(trainer={}), "set exactly one of recipe (all in YAML) and script"),
    "two trainers": (
        training(trainer={**RECIPE, "script": {"command": ["x"]}}),
        "set exactly one of recipe (all in YAML) and script",
    ),
    "recipe without data": (training(data=None), "a recipe needs data"),
    "linear with layers": (
        training(trainer={"recipe": {**RECIPE["recipe"], "model": {"type": "Linear", "hiddenSizes": [3]}}}),
        "hiddenSizes and dropout belong to type MLP",
    ),
    "data's scheme": (training(data={"uri": "file:///x"}), "or configmap://NAME/KEY"),
    "no key of the ConfigMap": (training(data={"uri": "configmap://digits"}), "write configmap://NAME/KEY"),
    "output into the web": (training(output={"uri": "https://x/y"}), "with the path of a folder that is to be made"),
    "output without a path": (
        training(output={"uri": "pvc://models/"}),
        "with the path of a folder that is to be made",
    ),
    "two secrets": (
        training(
            data={"uri": "s3://a/b", "secretRef": {"name": "one"}},
            output={"uri": "s3://a/c", "secretRef": {"name": "two"}},
        ),
        "data.secretRef and output.secretRef must name the same Secret",
    ),
    "torchrun's variables": (
        training(trainer={"script": {"command": ["x"], "env": [{"name": "PET_NNODES", "value": "2"}]}}),
        "names that begin with MOORAGE_ or PET_",
    ),
}

ACCEPTED: dict[str, dict[str, Any]] = {
    "plain": serving(),
    "longest name": serving("a" * 52),
    "everything": serving(
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
    "two metrics": scaled(CONCURRENCY, {"type": "Prometheus", "query": "up", "target": 3}),
    "container alone": own(model=None),
    "Triton": serving(model={**URI, "version": "12"}, runtime={"triton": {"dynamicBatching": {}, "args": ["--x"]}}),
    "training": training(),
    "script without data and output": training(trainer={"script": {"command": ["true"]}}, data=None, output=None),
}

FIXED: dict[str, dict[str, Any]] = {
    "workers": {"workers": 3},
    "trainer": {"trainer": {"recipe": {**RECIPE["recipe"], "epochs": 7}}},
    "processesPerWorker": {"processesPerWorker": 2},
    "data": {"data": {"uri": "pvc://other/data"}},
    "output": {"output": {"uri": "pvc://models/other"}},
}


def send(api: Cluster, obj: dict[str, Any], *options: str) -> str:
    return api.kubectl("apply", "--server-side", "--validate=strict", *options, "-f", "-", input=json.dumps(obj))


@pytest.mark.parametrize("case", REFUSED)
def test_refused(api: Cluster, case: str) -> None:
    obj, words = REFUSED[case]
    with pytest.raises(ClusterError) as refusal:
        send(api, obj, "--dry-run=server")
    assert words in str(refusal.value)


@pytest.mark.parametrize("case", ACCEPTED)
def test_accepted(api: Cluster, case: str) -> None:
    send(api, ACCEPTED[case], "--dry-run=server")


@pytest.fixture(scope="module")
def trained(api: Cluster) -> Iterator[dict[str, Any]]:
    """A TrainingJob that exists, where no operator looks."""
    namespace = f"crd-test-{uuid.uuid4().hex[:6]}"
    api.kubectl("create", "namespace", namespace)
    obj = training("fixed")
    obj["metadata"]["namespace"] = namespace
    send(api, obj)
    yield obj
    api.kubectl("delete", "namespace", namespace, "--wait=false")


@pytest.mark.parametrize("field", FIXED)
def test_a_training_is_one_run(api: Cluster, trained: dict[str, Any], field: str) -> None:
    changed = copy.deepcopy(trained)
    changed["spec"].update(FIXED[field])
    with pytest.raises(ClusterError, match=f"{field} cannot be changed, a TrainingJob is one run"):
        send(api, changed, "--dry-run=server")


def test_what_may_change_after_creation(api: Cluster, trained: dict[str, Any]) -> None:
    changed = copy.deepcopy(trained)
    changed["spec"] |= {
        "resources": {"requests": {"cpu": "1"}},
        "podTemplate": {"spec": {"priorityClassName": "high"}},
        "activeDeadlineSeconds": 60,
        "ttlSecondsAfterFinished": 60,
    }
    send(api, changed, "--dry-run=server")


def rules(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from (rule["message"] for rule in node.get("x-kubernetes-validations", []))
        for value in node.values():
            yield from rules(value)
    elif isinstance(node, list):
        for value in node:
            yield from rules(value)


def test_every_rule_has_a_case() -> None:
    said = [words for _, words in REFUSED.values()] + [f"{field} cannot be changed" for field in FIXED]
    # With a messageExpression the plain message is only its fallback.
    instead = {"minReplicas must be at most maxReplicas", "exactly one of torch, triton, container must be set"}
    for message in set(rules(crds())) - instead:
        assert any(words.split("Forbidden: ")[-1] in message for words in said), message


EXPLAINED = [
    "mdep",
    "mdep.spec",
    "mdep.spec.model.uri",
    "mdep.spec.model.fromTrainingJobs",
    "mdep.spec.runtime.torch",
    "mdep.spec.runtime.triton.dynamicBatching",
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
    stored = json.loads(send(api, serving(), "--dry-run=server", "-o", "json"))
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
