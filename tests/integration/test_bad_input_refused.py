"""What the schema can see is refused at apply, by the real API server, in words that say what to write instead.

What only the API server's own checks of children, or a running container, can see is in `test_bad_input_told` and in
tests/e2e/test_bad_input.py.
"""

import copy
import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from cluster import Cluster
from cluster.interface import ClusterError
from moorage.api.crd import crds
from support.resources import Manifest, model_deployment, training_job

URI = {"uri": "pvc://models/digits/1"}
CONCURRENCY = {"type": "Concurrency", "target": "8"}
RECIPE = {"task": "Classification", "target": "y"}


def model(**fields: Any) -> Manifest:
    return model_deployment(model={**URI, **fields})


def several(*models: dict[str, str]) -> Manifest:
    return model_deployment(model=URI, runtime={"torch": {"models": list(models)}})


def scaled(*metrics: dict[str, Any], **more: Any) -> Manifest:
    return model_deployment(scaling={"maxReplicas": 4, "metrics": list(metrics or [CONCURRENCY])}, **more)


def own(container: dict[str, Any] | None = None, **spec: Any) -> Manifest:
    return model_deployment(runtime={"container": {"image": "x", "port": 80, **(container or {})}}, **spec)


def recipe(**fields: Any) -> Manifest:
    return training_job(trainer={"recipe": {**RECIPE, **fields}})


def annotated(size: int) -> Manifest:
    obj = model_deployment()
    obj["metadata"]["annotations"] = {"example.com/note": "x" * size}
    return obj


# What is wrong, and words of the answer. Every CEL rule of the CRDs is here: a test below counts.
REFUSED: dict[str, tuple[Manifest, str]] = {
    # Names and metadata.
    "name of 53 characters": (model_deployment("a" * 53), "metadata.name may have at most 52 characters"),
    "name of 63 characters": (model_deployment("a" * 63), "metadata.name may have at most 52 characters"),
    "name of 300 characters": (training_job("a" * 300), "metadata.name: Invalid value"),
    "name with a digit first": (model_deployment("1a"), "metadata.name becomes the name of a Service"),
    "name with a dot": (model_deployment("a.b"), "metadata.name becomes the name of a Service"),
    "name in another alphabet": (model_deployment("größe"), "a lowercase RFC 1123 subdomain must consist of"),
    "name in capitals": (training_job("Digits"), "a lowercase RFC 1123 subdomain must consist of"),
    "label in another alphabet": (model_deployment(labels={"team": "größe"}), "a valid label must be an empty string"),
    "annotation of 1 MB": (annotated(1 << 20), "metadata.annotations: Too long: may not be more than 262144 bytes"),
    # Fields that are wrong, missing or too many.
    "unknown field": (model_deployment(replica=2), 'unknown field "spec.replica"'),
    "unknown field inside": (model(uir="pvc://a/b"), 'unknown field "spec.model.uir"'),
    "no spec": ({key: value for key, value in model_deployment().items() if key != "spec"}, "spec: Required value"),
    "no runtime at all": (model_deployment(runtime=None), "spec.runtime: Required value"),
    "no trainer at all": (training_job(trainer=None), "spec.trainer: Required value"),
    "container without an image": (
        model_deployment(runtime={"container": {"port": 80}}),
        "spec.runtime.container.image: Required value",
    ),
    "text for a number": (
        model_deployment(replicas="two"),
        'spec.replicas: Invalid value: "string": spec.replicas in body must be of type integer',
    ),
    "number for text": (model(version=1), "spec.model.version in body must be of type string"),
    "truth for text": (recipe(target=True), "spec.trainer.recipe.target in body must be of type string"),
    "list for an object": (model_deployment(runtime=[]), "spec.runtime in body must be of type object"),
    "unknown choice": (
        model_deployment(runtime={"torch": {"device": "GPU"}}),
        'Unsupported value: "GPU": supported values: "Auto", "CPU", "CUDA"',
    ),
    "unknown format": (
        model(format="Keras"),
        '"TorchExport", "TorchScript", "AOTInductor", "ONNX", "Python", "Safetensors", "TritonRepository"',
    ),
    "unknown task": (recipe(task="Clustering"), 'supported values: "Classification", "Regression"'),
    "negative replicas": (model_deployment(replicas=-1), "should be greater than or equal to 0"),
    "too many replicas": (model_deployment(replicas=1001), "should be less than or equal to 1000"),
    "negative GPUs": (
        model_deployment(resources={"gpus": -1}),
        "spec.resources.gpus in body should be greater than or equal to 0",
    ),
    "half a GPU": (model_deployment(resources={"gpus": 0.5}), "spec.resources.gpus in body must be of type integer"),
    "no epochs": (recipe(epochs=0), "spec.trainer.recipe.epochs in body should be greater than or equal to 1"),
    "no workers": (training_job(workers=0), "spec.workers in body should be greater than or equal to 1"),
    "port beyond the last": (own({"port": 65536}), "should be less than or equal to 65535"),
    "path without a slash": (own({"readinessPath": "healthz"}), "readinessPath in body should match '^/'"),
    "no quantity": (
        model_deployment(resources={"limits": {"memory": "2 GB"}}),
        "spec.resources.limits.memory in body should match",
    ),
    "decimal without quotes": (recipe(learningRate=0.1), "spec.trainer.recipe.learningRate"),
    "decimal with a comma": (recipe(learningRate="0,1"), "spec.trainer.recipe.learningRate in body should match"),
    "a script without a command": (
        training_job(trainer={"script": {"command": []}}),
        "spec.trainer.script.command in body should have at least 1 items",
    ),
    "uri without an end": (model(uri="pvc://models/" + "x" * 1024), "spec.model.uri: Too long"),
    "the same variable twice": (
        own({"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}),
        'spec.runtime.container.env[1]: Duplicate value: {"name":"A"}',
    ),
    # Rules that cross fields.
    "two runtimes": (
        model_deployment(runtime={"torch": {}, "triton": {}}),
        "exactly one of torch, triton, container must be set; got 2",
    ),
    "no runtime": (model_deployment(runtime={}), "exactly one of torch, triton, container must be set; got 0"),
    "no model": (model_deployment(model=None), "set model: only runtime.container may bring its model in the image"),
    "uri and training": (
        model(fromTrainingJobs={"matchLabels": {"a": "b"}}),
        "set exactly one of uri (serve this model) and fromTrainingJobs",
    ),
    "neither": (model_deployment(model={}), "set exactly one of uri (serve this model) and fromTrainingJobs"),
    "format of training": (
        model_deployment(model={"fromTrainingJobs": {"matchLabels": {"a": "b"}}, "format": "TorchScript"}),
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
    "Python on Triton": (
        model_deployment(model={**URI, "format": "Python"}, runtime={"triton": {}}),
        "formats AOTInductor, ONNX, Python, Safetensors need runtime.torch",
    ),
    "ONNX on Triton": (
        model_deployment(model={**URI, "format": "ONNX"}, runtime={"triton": {}}),
        "Triton has backends of its own for them, in a TritonRepository",
    ),
    "Python by a recipe": (
        training_job(output={"uri": "pvc://models/1", "format": "Python"}),
        "a recipe exports TorchExport or TorchScript: the other formats are what a script may leave",
    ),
    "torch repository": (model(format="TritonRepository"), "a TritonRepository is served by runtime.triton"),
    "a key for what training writes": (
        model_deployment(model={"fromTrainingJobs": {"matchLabels": {"a": "b"}}, "decryptionKeyRef": {"name": "k"}}),
        "leave decryptionKeyRef out beside fromTrainingJobs: what training writes is not encrypted",
    ),
    "several models of training": (
        model_deployment(
            model={"fromTrainingJobs": {"matchLabels": {"a": "b"}}}, runtime={"torch": {"models": [{"name": "a"}]}}
        ),
        "with runtime.torch.models set model.uri, the folder that holds them",
    ),
    "several models of one version": (
        model_deployment(model={**URI, "version": "2"}, runtime={"torch": {"models": [{"name": "a"}]}}),
        "no format or version beside it: each model has its own",
    ),
    "a budget for one model": (
        model_deployment(model=URI, runtime={"torch": {"memoryBudget": "1Gi"}}),
        "memoryBudget is shared by several models: set models, or leave it out",
    ),
    "a budget of nothing": (
        model_deployment(model=URI, runtime={"torch": {"memoryBudget": "500m", "models": [{"name": "a"}]}}),
        "memoryBudget is of bytes: write for example 2Gi",
    ),
    "a model's name": (several({"name": "a/b"}), "a model's name has letters, digits, '.', '_', '-'"),
    "a model's version": (several({"name": "a", "version": "1/2"}), "a version has letters, digits, '.', '_', '-'"),
    "a model's path": (several({"name": "a", "path": "../b"}), "a path leads downwards from model.uri"),
    "a model twice": (several({"name": "a"}, {"name": "a"}), 'Duplicate value: {"name":"a"}'),
    "configured repository": (
        model_deployment(model={**URI, "format": "TritonRepository"}, runtime={"triton": {"maxBatchSize": 8}}),
        "preferredBatchSizes, instanceCount must be absent with format TritonRepository",
    ),
    "queue without batches": (
        model_deployment(model=URI, runtime={"triton": {"maxBatchSize": 0, "maxQueueSize": 8}}),
        "need a maxBatchSize of at least 1",
    ),
    "Triton's version": (
        model_deployment(model={**URI, "version": "v1"}, runtime={"triton": {}}),
        "Triton knows whole numbers only",
    ),
    "replicas and scaling": (scaled(replicas=2), "spec.replicas: Forbidden: replicas must be absent when scaling"),
    "bounds": (
        model_deployment(scaling={"minReplicas": 5, "maxReplicas": 4, "metrics": [CONCURRENCY]}),
        "minReplicas 5 is more than maxReplicas 4",
    ),
    "query missing": (scaled({"type": "Prometheus", "target": "8"}), "set query with type Prometheus, and only there"),
    "query too many": (scaled({**CONCURRENCY, "query": "x"}), "set query with type Prometheus, and only there"),
    "target of zero": (scaled({"type": "Concurrency", "target": "0.0"}), "target must be greater than 0"),
    "target of zero, as a number": (scaled({"type": "Concurrency", "target": 0}), "target must be greater than 0"),
    "twice": (scaled(CONCURRENCY, CONCURRENCY), "Concurrency may be given once"),
    "concurrency of a container": (
        own(scaling={"maxReplicas": 4, "metrics": [CONCURRENCY]}),
        "a container's requests in flight are not known",
    ),
    "our variables": (own({"env": [{"name": "MOORAGE_X", "value": "1"}]}), "are set by the operator"),
    "GPU resource alone": (
        model_deployment(resources={"gpuResource": "amd.com/gpu"}),
        "gpuResource names the device that gpus counts",
    ),
    "request beyond limit": (
        model_deployment(resources={"requests": {"cpu": "2", "memory": "2Gi"}, "limits": {"memory": "1024Mi"}}),
        "each request must be at most its limit",
    ),
    "no trainer": (training_job(trainer={}), "set exactly one of recipe (all in YAML) and script"),
    "two trainers": (
        training_job(trainer={"recipe": RECIPE, "script": {"command": ["x"]}}),
        "set exactly one of recipe (all in YAML) and script",
    ),
    "recipe without data": (training_job(data=None), "a recipe needs data"),
    "linear with layers": (
        recipe(model={"type": "Linear", "hiddenSizes": [3]}),
        "hiddenSizes and dropout belong to type MLP",
    ),
    "data's scheme": (training_job(data={"uri": "file:///x"}), "or configmap://NAME/KEY"),
    "no key of the ConfigMap": (training_job(data={"uri": "configmap://digits"}), "write configmap://NAME/KEY"),
    "output into the web": (
        training_job(output={"uri": "https://x/y"}),
        "with the path of a folder that is to be made",
    ),
    "output without a path": (
        training_job(output={"uri": "pvc://models/"}),
        "with the path of a folder that is to be made",
    ),
    "two secrets": (
        training_job(
            data={"uri": "s3://a/b", "secretRef": {"name": "one"}},
            output={"uri": "s3://a/c", "secretRef": {"name": "two"}},
        ),
        "data.secretRef and output.secretRef must name the same Secret",
    ),
    "torchrun's variables": (
        training_job(trainer={"script": {"command": ["x"], "env": [{"name": "PET_NNODES", "value": "2"}]}}),
        "names that begin with MOORAGE_ or PET_",
    ),
}

FIXED: dict[str, dict[str, Any]] = {
    "workers": {"workers": 3},
    "trainer": {"trainer": {"recipe": {**RECIPE, "epochs": 7}}},
    "processesPerWorker": {"processesPerWorker": 2},
    "data": {"data": {"uri": "pvc://other/data"}},
    "output": {"output": {"uri": "pvc://models/other"}},
}


def send(api: Cluster, verb: str, obj: Manifest) -> str:
    """A new object is judged by the whole schema. A server-side apply stops at the first wrong type, with words of its
    own merge."""
    how = ["--server-side"] if verb == "apply" else []
    return api.kubectl(verb, *how, "--validate=strict", "--dry-run=server", "-f", "-", input=json.dumps(obj))


@pytest.mark.parametrize("case", REFUSED)
def test_refused(api: Cluster, case: str) -> None:
    obj, words = REFUSED[case]
    with pytest.raises(ClusterError) as refusal:
        send(api, "create", obj)
    assert words in str(refusal.value)


@pytest.fixture(scope="module")
def trained(api: Cluster) -> Iterator[Manifest]:
    """A TrainingJob that exists, where no operator looks."""
    namespace = f"refused-{uuid.uuid4().hex[:6]}"
    api.kubectl("create", "namespace", namespace)
    obj = training_job("fixed")
    obj["metadata"]["namespace"] = namespace
    api.kubectl("apply", "--server-side", "-f", "-", input=json.dumps(obj))
    yield obj
    api.kubectl("delete", "namespace", namespace, "--wait=false")


@pytest.mark.parametrize("field", FIXED)
def test_a_training_is_one_run(api: Cluster, trained: Manifest, field: str) -> None:
    changed = copy.deepcopy(trained)
    changed["spec"].update(FIXED[field])
    with pytest.raises(ClusterError, match=f"{field} cannot be changed, a TrainingJob is one run"):
        send(api, "apply", changed)


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
