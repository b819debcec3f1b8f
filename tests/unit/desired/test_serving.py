"""Decisions of the builders that a golden file shows but does not explain."""

from typing import Any

import pytest

from moorage.api.facts import InvalidSpec, ResolvedModel
from moorage.api.modeldeployment import ModelDeployment
from moorage.desired.defaults import Defaults
from moorage.desired.model import resolve
from moorage.desired.serving import children

DEFAULTS = Defaults(torch_image="torch", triton_image="triton", image_pull_policy="Always")


def made(replicas: int = 1, defaults: Defaults = DEFAULTS, **spec: Any) -> dict[str, dict[str, Any]]:
    full = {"model": {"uri": "pvc://m/1"}, "runtime": {"torch": {}}, **spec}
    md = ModelDeployment.parse({"metadata": {"name": "d", "uid": "u"}, "spec": full})
    model = resolve(md, [])
    assert isinstance(model, ResolvedModel)
    return {child["kind"]: child for child in children(md, model, replicas, defaults)}


def pod(**spec: Any) -> dict[str, Any]:
    return made(**spec)["Deployment"]["spec"]["template"]["spec"]


def env(container: dict[str, Any]) -> dict[str, str]:
    return {variable["name"]: variable.get("value") for variable in container["env"]}


@pytest.mark.parametrize(("replicas", "budget"), [(0, False), (1, False), (2, True)])
def test_a_budget_only_where_a_pod_can_be_spared(replicas: int, budget: bool) -> None:
    found = made(replicas)
    assert ("PodDisruptionBudget" in found) is budget
    assert found["Deployment"]["spec"]["replicas"] == replicas


def test_pods_have_time_to_leave() -> None:
    spec = pod(drain={"timeoutSeconds": 120})
    assert spec["terminationGracePeriodSeconds"] == 130
    assert env(spec["containers"][0])["MOORAGE_DRAIN_TIMEOUT_SECONDS"] == "120"


@pytest.mark.parametrize(
    ("resources", "threads"),
    [
        ({}, "1"),
        ({"requests": {"cpu": "2"}}, "2"),
        ({"requests": {"cpu": "2"}, "limits": {"cpu": "3500m"}}, "3"),
        ({"limits": {"cpu": "250m"}}, "1"),
    ],
)
def test_threads_follow_the_cpus(resources: dict[str, Any], threads: str) -> None:
    assert env(pod(resources=resources)["containers"][0])["OMP_NUM_THREADS"] == threads


def test_only_our_images_get_our_pull_policy() -> None:
    assert pod()["containers"][0]["imagePullPolicy"] == "Always"
    own = pod(runtime={"container": {"image": "theirs", "port": 80}})["containers"][0]
    assert "imagePullPolicy" not in own


def test_triton_gets_a_whole_number_as_version() -> None:
    command = pod(runtime={"triton": {}}, model={"uri": "pvc://m/1", "version": "7"})["initContainers"][0]["command"]
    assert command[command.index("--version") + 1] == "7"
    command = pod(runtime={"triton": {}}, model={"uri": "pvc://m/1", "version": "digits-b"})["initContainers"][0][
        "command"
    ]
    assert command[command.index("--version") + 1] == "1"


def test_a_changed_configuration_changes_the_pods() -> None:
    def annotation(size: int) -> str:
        template = made(runtime={"triton": {"maxBatchSize": size}})["Deployment"]["spec"]["template"]
        return template["metadata"]["annotations"]["moorage.dev/config-digest"]

    assert annotation(8) == annotation(8) != annotation(9)


def test_scaling_does_not_touch_the_pods() -> None:
    one, two = made(1)["Deployment"], made(2)["Deployment"]
    assert one["spec"]["template"] == two["spec"]["template"]


def test_the_gpus_taint_is_tolerated_by_its_name_and_by_the_settings() -> None:
    extra = Defaults(torch_image="t", triton_image="t", gpu_tolerations=({"key": "pool", "operator": "Exists"},))
    tolerations = pod(defaults=extra, resources={"gpus": 1, "gpuResource": "amd.com/gpu"})["tolerations"]
    assert [toleration["key"] for toleration in tolerations] == ["amd.com/gpu", "pool"]
    assert "tolerations" not in pod(defaults=extra)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"resources": {"gpus": 1, "limits": {"nvidia.com/gpu": "2"}}}, "write the number of GPUs as gpus"),
        ({"model": {"uri": "gs://x/y"}}, "gs:// is not supported"),
        ({"model": {"uri": "models"}}, "'models' is no uri"),
        ({"model": {"uri": "pvc://m/1", "format": "Python"}, "runtime": {"triton": {}}}, "is of format Python: use"),
    ],
)
def test_refused(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidSpec, match=words):
        made(**spec)


@pytest.mark.parametrize(
    ("runtime", "form", "inits"),
    [
        ({"torch": {}}, None, ["verify", "decrypt"]),
        ({"torch": {"models": [{"name": "a"}]}}, None, ["verify", "decrypt"]),
        ({"triton": {}}, None, ["verify", "decrypt", "repository"]),
        ({"triton": {}}, "TritonRepository", ["verify", "decrypt"]),
        ({"container": {"image": "theirs", "port": 80}}, None, ["verify", "decrypt"]),
    ],
)
def test_every_runtime_takes_an_encrypted_model_out_of_memory(
    runtime: dict[str, Any], form: str | None, inits: list[str]
) -> None:
    """From a claim that is called as the volume is: its place must be another."""
    source = {"uri": "pvc://plain/1", "sha256": "ab" * 32, "decryptionKeyRef": {"name": "k"}}
    spec = pod(model=source | ({"format": form} if form else {}), runtime=runtime)
    assert [init["name"] for init in spec["initContainers"]] == inits
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert volumes["plain"] == {"name": "plain", "emptyDir": {"medium": "Memory"}}
    content = "/run/moorage/model/artifact"
    decrypt, (server,) = spec["initContainers"][1], spec["containers"]
    assert decrypt["command"][3:6] == ["decrypt", "/mnt/plain/1", content]
    for container in (*spec["initContainers"], server):
        places = [mount["mountPath"] for mount in container["volumeMounts"]]
        assert len(places) == len(set(places))
    assert {"name": "plain", "mountPath": "/run/moorage/model", "readOnly": True} in server["volumeMounts"]
    assert not {"model", "model-key"} & {mount["name"] for mount in server["volumeMounts"]}
    told = env(server)
    assert told["MOORAGE_MODEL_PATH"] == content
    assert not told.get("MOORAGE_MODEL_SHA256"), "the digest is of what it was"
    if "repository" in inits:
        layout = spec["initContainers"][-1]
        assert layout["command"][layout["command"].index("--model") + 1] == content
        assert "--sha256" not in layout["command"]
