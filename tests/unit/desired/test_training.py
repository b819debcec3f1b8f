"""When a training's Job is made, left alone, and made anew."""

import copy
import json
from typing import Any

import pytest

from moorage.api.names import FIXED_DIGEST
from moorage.api.trainingjob import TrainingJob
from moorage.desired.defaults import Defaults
from moorage.desired.training import children, retire, verdict

DEFAULTS = Defaults(torch_image="torch:1", triton_image="triton")
UPGRADED = Defaults(torch_image="torch:2", triton_image="triton")


def training(status: dict[str, Any] | None = None, **spec: Any) -> TrainingJob:
    full = {"trainer": {"script": {"command": ["x"]}}, **spec}
    return TrainingJob.parse({"metadata": {"name": "t", "uid": "u"}, "spec": full, "status": status or {}})


def job(defaults: Defaults = DEFAULTS, **spec: Any) -> dict[str, Any]:
    (found,) = (child for child in children(training(**spec), defaults) if child["kind"] == "Job")
    return found


def ended(live: dict[str, Any]) -> dict[str, Any]:
    return {**live, "status": {"conditions": [{"type": "Failed", "status": "True"}]}}


def trainer(found: dict[str, Any]) -> dict[str, Any]:
    return found["spec"]["template"]["spec"]["containers"][0]


def env(found: dict[str, Any]) -> dict[str, str]:
    return {variable["name"]: variable.get("value") for variable in trainer(found)["env"]}


def test_verdict() -> None:
    live = job()
    assert verdict(live, live) == "Nothing"
    assert verdict(live, job(activeDeadlineSeconds=9)) == "Apply"
    assert verdict(live, job(resources={"gpus": 1})) == "Recreate"
    assert verdict(live, job(podTemplate={"spec": {"priorityClassName": "x"}})) == "Recreate"


def test_an_upgrade_of_the_operator_never_restarts_a_training() -> None:
    assert verdict(job(DEFAULTS), job(UPGRADED)) == "Keep"


def test_a_default_that_is_written_down_does_not_restart_a_training() -> None:
    live = job()
    resources = {"gpus": 0}
    filled = job(resources=resources, workers=1, trainer={"script": {"command": ["x"], "env": []}})
    assert verdict(live, filled) == "Nothing"


def test_an_upgrade_that_leaves_something_out_does_not_touch_a_training() -> None:
    # An apply would remove it from the template, which Kubernetes refuses.
    former = job()
    trainer(former)["env"].append({"name": "GONE", "value": "1"})
    former["metadata"]["annotations"][FIXED_DIGEST] = "of the template with it"
    assert verdict(former, job()) == "Keep"
    assert verdict(former, job(resources={"gpus": 1})) == "Recreate", "but the user's wish counts"


def test_a_template_that_somebody_changed_is_left_alone() -> None:
    queued = copy.deepcopy(job())
    queued["spec"]["template"]["spec"]["containers"][0]["image"] = "other"
    assert verdict(queued, job()) == "Keep"


def test_what_has_ended_is_kept() -> None:
    assert verdict(ended(job()), job(resources={"gpus": 1})) == "Keep"


def test_a_job_is_removed_only_when_its_end_is_in_the_status() -> None:
    assert "ttlSecondsAfterFinished" not in job(ttlSecondsAfterFinished=60)["spec"]
    assert retire(training(ttlSecondsAfterFinished=60), job()) is None
    done = {"completionTime": "t", "conditions": [{"type": "Succeeded", "status": "True"}]}
    assert retire(training(done, ttlSecondsAfterFinished=60), job()) == {"spec": {"ttlSecondsAfterFinished": 60}}
    assert retire(training(done, ttlSecondsAfterFinished=60), None) is None
    assert retire(training(done), job()) is None


def test_a_claim_for_data_and_output_is_mounted_once_to_write() -> None:
    found = job(data={"uri": "pvc://m/in"}, output={"uri": "pvc://m/out"})
    mounts = [mount for mount in trainer(found)["volumeMounts"] if mount["mountPath"].startswith("/mnt")]
    assert mounts == [{"name": "output", "mountPath": "/mnt/m"}]
    found = job(data={"uri": "pvc://d/in"}, output={"uri": "pvc://m/out"})
    mounts = [mount for mount in trainer(found)["volumeMounts"] if mount["mountPath"].startswith("/mnt")]
    assert mounts[1] == {"name": "data", "mountPath": "/mnt/d", "readOnly": True}


def test_the_recipe_is_complete_json() -> None:
    recipe = {"task": "Classification", "features": ["x"], "target": "y"}
    found = env(job(trainer={"recipe": recipe}, data={"uri": "pvc://m/d"}, output={"uri": "pvc://m/o"}))
    assert json.loads(found["MOORAGE_RECIPE"]) == {
        "task": "Classification",
        "model": {"hiddenSizes": [128, 64], "dropout": "0", "type": "MLP"},
        "features": ["x"],
        "target": "y",
        "epochs": 30,
        "batchSize": 64,
        "learningRate": "0.003",
        "weightDecay": "0.0001",
        "validationFraction": "0.1",
        "seed": 0,
    }


def test_without_an_image_of_ones_own_no_launcher_has_to_be_brought() -> None:
    assert "initContainers" not in job()["spec"]["template"]["spec"]
    assert "PYTHONPATH" not in env(job())


@pytest.mark.parametrize(
    ("spec", "threads"),
    [({}, "1"), ({"resources": {"limits": {"cpu": "8"}, "gpus": 2}}, "4"), ({"processesPerWorker": 4}, "1")],
)
def test_threads_are_shared_by_the_processes(spec: dict[str, Any], threads: str) -> None:
    assert env(job(**spec))["OMP_NUM_THREADS"] == threads


def test_one_incident_may_cost_every_worker() -> None:
    assert job(workers=4)["spec"]["backoffLimit"] == 12
