"""Objects of the API server become models; what is wrong is said in the user's words."""

import copy
from typing import Any

import pytest

from moorage.api.facts import InvalidSpec
from moorage.api.modeldeployment import ModelDeployment
from moorage.api.trainingjob import TrainingJob

SERVING: dict[str, Any] = {
    "apiVersion": "moorage.dev/v1alpha1",
    "kind": "ModelDeployment",
    "metadata": {
        "name": "a",
        "namespace": "n",
        "uid": "u",
        "generation": 2,
        "managedFields": [{}],
        "labels": {"k": "v"},
    },
    "spec": {"model": {"uri": "pvc://m/1"}, "runtime": {"torch": {}}},
}


def test_metadata_and_defaults() -> None:
    md = ModelDeployment.parse(SERVING, strict=True)
    assert (md.metadata.name, md.metadata.namespace, md.metadata.uid, md.metadata.generation) == ("a", "n", "u", 2)
    assert md.spec.runtime.name == "torch"
    assert (md.replicas, md.spec.drain.timeout_seconds, md.status) == (1, 30, {})


def test_an_older_operator_reads_a_newer_resource() -> None:
    newer = copy.deepcopy(SERVING)
    newer["spec"]["canary"] = {"weight": 5}
    newer["spec"]["runtime"]["torch"]["compile"] = True
    ModelDeployment.parse(newer)
    with pytest.raises(InvalidSpec, match=r"spec\.runtime\.torch\.compile.*spec\.canary"):
        ModelDeployment.parse(newer, strict=True)


def test_a_wrong_value_names_its_field() -> None:
    wrong = copy.deepcopy(SERVING)
    wrong["spec"]["replicas"] = "many"
    with pytest.raises(InvalidSpec, match=r"spec\.replicas: .*integer"):
        ModelDeployment.parse(wrong)


@pytest.mark.parametrize(("runtime", "count"), [({}, 0), ({"torch": {}, "triton": {}}, 2)])
def test_exactly_one_runtime_also_without_the_api_server(runtime: dict[str, Any], count: int) -> None:
    md = ModelDeployment.parse({**SERVING, "spec": {**SERVING["spec"], "runtime": runtime}})
    with pytest.raises(InvalidSpec, match=f"got {count}"):
        _ = md.spec.runtime.name


def test_quantities_may_be_numbers() -> None:
    spec = {**SERVING["spec"], "resources": {"requests": {"cpu": 2, "memory": "1.5Gi"}}}
    assert ModelDeployment.parse({**SERVING, "spec": spec}).spec.resources.requests == {"cpu": "2", "memory": "1.5Gi"}


@pytest.mark.parametrize(
    ("status", "finished"),
    [
        ({}, False),
        ({"conditions": [{"type": "Succeeded", "status": "Unknown"}]}, False),
        # An invalid spec is False too, but not the end.
        ({"conditions": [{"type": "Succeeded", "status": "False"}]}, False),
        ({"conditions": [{"type": "Succeeded", "status": "False"}], "completionTime": "t"}, True),
        ({"conditions": [{"type": "Succeeded", "status": "True"}], "completionTime": "t"}, True),
    ],
)
def test_finished(status: dict[str, Any], finished: bool) -> None:
    spec = {"trainer": {"script": {"command": ["x"]}}}
    assert TrainingJob.parse({"metadata": {"name": "t"}, "spec": spec, "status": status}).finished is finished


@pytest.mark.parametrize(("processes", "gpus", "expected"), [(None, 0, 1), (None, 4, 4), (2, 4, 2)])
def test_processes_follow_the_gpus(processes: int | None, gpus: int, expected: int) -> None:
    spec = {"trainer": {"script": {"command": ["x"]}}, "resources": {"gpus": gpus}, "processesPerWorker": processes}
    assert TrainingJob.parse({"metadata": {"name": "t"}, "spec": spec}).spec.processes == expected
