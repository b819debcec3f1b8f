"""A ModelDeployment's status: Unknown on the way, False on failure, the current generation only, and calm."""

from typing import Any

import pytest

from moorage.api.conditions import find
from moorage.api.facts import Decision, Problem, ResolvedModel, Waiting
from moorage.api.modeldeployment import ModelDeployment
from moorage.api.modeldeployment_status import ModelDeploymentStatus
from moorage.status.serving import ServingObserved, compute, settled
from unit.status.objects import LATER, NOW, crashed, deployment, pod, replica_set, unschedulable, waiting

MODEL = ResolvedModel("pvc://m/1", "TorchExport", "1")


def serving(status: dict[str, Any] | None = None, *, generation: int = 1, **spec: Any) -> ModelDeployment:
    full = {"model": {"uri": "pvc://m/1"}, "runtime": {"torch": {}}, **spec}
    metadata = {"name": "d", "namespace": "n", "generation": generation}
    return ModelDeployment.parse({"metadata": metadata, "spec": full, "status": status or {}})


def look(md: ModelDeployment, now: str = NOW, **observed: Any) -> dict[str, Any]:
    status = compute(md, ServingObserved(**{"model": MODEL, **observed}), now)
    # What the CRD does not know, or has another type for, would be dropped or refused by the API server.
    ModelDeploymentStatus.model_validate(status, extra="forbid")
    return status


def conditions(status: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}


def message(status: dict[str, Any], type: str) -> str:
    found = find(status["conditions"], type)
    assert found is not None
    return str(found["message"])


def troubled(*pods: dict[str, Any], replicas: int = 1, ready: int = 0, **more: Any) -> dict[str, Any]:
    seen = {
        "deployment": deployment(replicas, ready=ready),
        "replica_sets": [replica_set(replicas=replicas, ready=ready)],
        "pods": list(pods),
    }
    return look(serving(replicas=replicas), **(seen | more))


def test_the_very_first_look_says_unknown_with_the_generation() -> None:
    """Without any Ready condition, kstatus would call it current."""
    status = look(serving(generation=3))
    assert conditions(status)["Ready"] == ("Unknown", "Creating")
    assert status["observedGeneration"] == 3
    assert all(c["observedGeneration"] == 3 for c in status["conditions"])


def test_healthy() -> None:
    md = serving(replicas=2)
    status = look(md, deployment=deployment(2))
    assert settled(md, deployment(2))
    assert conditions(status) == {
        "Ready": ("True", "AllReplicasReady"),
        "Progressing": ("False", "Complete"),
        "ModelLoaded": ("True", "Loaded"),
        "CapacityAvailable": ("True", "Scheduled"),
        "Stalled": ("False", "NotStalled"),
    }
    assert {key: status[key] for key in status if key != "conditions"} == {
        "observedGeneration": 1,
        "replicas": 2,
        "readyReplicas": 2,
        "updatedReplicas": 2,
        "desiredReplicas": 2,
        "replicasSummary": "2/2",
        "selector": "moorage.dev/model-deployment=d",
        "runtime": "torch",
        "url": "http://d.n.svc:8080",
        "model": {"uri": "pvc://m/1", "version": "1", "format": "TorchExport"},
    }


def test_looking_again_changes_nothing() -> None:
    for seen in (
        {"deployment": deployment(1)},
        {"deployment": deployment(1, ready=0), "replica_sets": [replica_set()], "pods": [crashed(66, "gone")]},
        {"deployment": deployment(1, ready=0), "replica_sets": [replica_set()], "pods": [unschedulable("none")]},
        {"problem": Problem("InvalidSpec", "no")},
        {"model": Waiting("WaitingForTraining", "not yet")},
    ):
        first = look(serving(), **seen)
        assert look(serving(first), LATER, **seen) == first


@pytest.mark.parametrize(
    "changes",
    [
        {"readyReplicas": 1},
        {"updatedReplicas": 1},
        {"replicas": 3},
        {"availableReplicas": 1},
        {"observedGeneration": 0},
    ],
)
def test_not_settled(changes: dict[str, int]) -> None:
    assert not settled(serving(replicas=2), deployment(2, **changes))


def test_not_settled_while_the_deployment_has_not_been_told() -> None:
    assert not settled(serving(replicas=3), deployment(2))
    assert not settled(serving(), None)


def test_only_the_current_generation_counts() -> None:
    """The old pods serve on, the new one cannot load: not ready, whatever the Deployment's sum says."""
    status = look(
        serving(replicas=2),
        deployment=deployment(2, image="b", updatedReplicas=1, replicas=3),
        replica_sets=[replica_set("a", replicas=2, ready=2), replica_set("b", replicas=1)],
        pods=[
            crashed(65, {"reason": "ModelCorrupt", "message": "broken"}, image="b"),
            pod("d-0", image="a", ready=True),
        ],
    )
    assert (status["readyReplicas"], status["updatedReplicas"], status["replicasSummary"]) == (0, 1, "0/2")
    assert conditions(status)["Ready"] == ("False", "ModelCorrupt")
    assert conditions(status)["ModelLoaded"] == ("False", "ModelCorrupt")
    assert message(status, "Ready") == (
        "0 of 2 replicas ready: broken (2 replicas of the version before still take requests)"
    )


def test_a_template_that_no_replica_set_has_yet() -> None:
    status = look(
        serving(), deployment=deployment(1, image="b", observedGeneration=0), replica_sets=[replica_set("a", ready=1)]
    )
    assert status["readyReplicas"] == 0
    assert conditions(status)["Ready"] == ("Unknown", "RollingOut")


def test_ready_as_soon_as_the_new_pods_are_though_old_ones_still_leave() -> None:
    status = look(
        serving(),
        deployment=deployment(1, image="b", replicas=2),
        replica_sets=[replica_set("a", ready=1), replica_set("b", ready=1)],
        pods=[pod(image="b", ready=True)],
    )
    assert conditions(status)["Ready"] == ("True", "AllReplicasReady")


def test_counts_are_of_one_moment() -> None:
    """The Deployment's follow those of its ReplicaSets."""
    status = look(
        serving(), deployment=deployment(1, replicas=0, updatedReplicas=0), replica_sets=[replica_set(ready=1)],
        pods=[pod(ready=True)],
    )  # fmt: skip
    assert (status["readyReplicas"], status["replicas"], status["updatedReplicas"]) == (1, 1, 1)


def several(**cold_start: Any) -> dict[str, Any]:
    """Of two models in each server; by what its first pod said when it started."""
    torch = {"models": [{"name": "a"}, {"name": "b"}]}
    steps = [{"name": "Loaded", "seconds": "1"}]
    ladder = {"pod": "d-1", "revision": "x", "totalSeconds": 9, "steps": steps, **cold_start}
    md = serving({"coldStart": ladder}, runtime={"torch": torch})
    return look(md, deployment=deployment(1), model=ResolvedModel("pvc://m/zoo", "", ""))


def test_of_several_models_each_that_could_not_be_loaded_is_told() -> None:
    status = several()
    assert conditions(status)["ModelLoaded"] == ("True", "Loaded")
    assert status["model"] == {"uri": "pvc://m/zoo"}, "each of them has its own version and format"

    status = several(failedModels=[{"name": "b", "reason": "ModelCorrupt"}])
    assert conditions(status)["Ready"] == ("True", "AllReplicasReady")
    assert conditions(status)["ModelLoaded"] == ("False", "ModelCorrupt")
    assert message(status, "ModelLoaded").startswith("1 of 2 models could not be loaded when d-1 started: b (Model")

    both = [{"name": "a", "reason": "ModelNotFound"}, {"name": "b", "reason": "ModelCorrupt"}]
    assert conditions(several(failedModels=both))["ModelLoaded"] == ("False", "SomeNotLoaded")


def test_what_a_server_of_several_models_has_not_said_is_not_known() -> None:
    assert conditions(several(steps=[{"name": "Ready", "seconds": "1"}]))["ModelLoaded"] == ("Unknown", "NotLoadedYet")


def test_no_capacity_is_no_failure() -> None:
    words = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
    status = troubled(pod(ready=True), unschedulable(words, "d-2"), replicas=2, ready=1)
    assert conditions(status)["Ready"] == ("Unknown", "InsufficientCapacity")
    assert conditions(status)["CapacityAvailable"] == ("False", "InsufficientCapacity")
    assert message(status, "CapacityAvailable") == words
    assert conditions(status)["ModelLoaded"] == ("True", "Loaded")
    assert "lastFailure" not in status


def test_capacity_comes_back() -> None:
    short = troubled(unschedulable("none"), replicas=1)
    healed = look(serving(short, replicas=1), LATER, deployment=deployment(1))
    assert conditions(healed)["CapacityAvailable"] == ("True", "Scheduled")


@pytest.mark.parametrize(
    ("seen", "ready", "loaded", "stalled"),
    [
        (crashed(66, {"reason": "ModelNotFound", "message": "no"}), "False", "False", "True"),
        (crashed(1, "boom"), "False", "False", "False"),
        (crashed(137, reason="OOMKilled"), "False", "False", "False"),
        (crashed(75, {"reason": "FetchFailed", "message": "no"}, restarts=0), "Unknown", "Unknown", "False"),
        (crashed(75, {"reason": "FetchFailed", "message": "no"}, restarts=3), "False", "False", "False"),
        (waiting("ErrImagePull", "no"), "False", "Unknown", "False"),
        (waiting("CreateContainerConfigError", 'secret "s" not found'), "False", "Unknown", "False"),
        (unschedulable('persistentvolumeclaim "m" not found'), "False", "False", "False"),
        (unschedulable("pod has unbound immediate PersistentVolumeClaims"), "Unknown", "Unknown", "False"),
        (pod(), "Unknown", "Unknown", "False"),
    ],
)
def test_failures(seen: dict[str, Any], ready: str, loaded: str, stalled: str) -> None:
    found = conditions(troubled(seen))
    assert (found["Ready"][0], found["ModelLoaded"][0], found["Stalled"][0]) == (ready, loaded, stalled)


def test_the_last_failure_has_everything_and_stays() -> None:
    broken = crashed(65, {"reason": "DigestMismatch", "message": "other content", "time": "2026-01-01T11:59:00Z"})
    status = troubled(broken)
    expected = {
        "time": "2026-01-01T11:59:00Z",
        "reason": "DigestMismatch",
        "message": "other content",
        "pod": "d-1",
        "container": "server",
        "exitCode": 65,
    }
    assert status["lastFailure"] == expected
    assert look(serving(status), LATER, deployment=deployment(1))["lastFailure"] == expected


def test_a_server_that_takes_long_is_remembered_and_is_no_failure_yet() -> None:
    slow = pod(
        containerStatuses=[
            {"name": "server", "ready": False, "state": {"running": {"startedAt": "2026-01-01T11:59:00Z"}}}
        ],
        conditions=[{"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T11:58:00Z"}],
    )
    status = troubled(slow)
    assert conditions(status)["Ready"] == ("Unknown", "ProbeFailing")
    assert conditions(status)["Stalled"][0] == "False"
    assert status["lastFailure"]["reason"] == "ProbeFailing"


def test_the_same_failure_of_another_pod_is_no_news() -> None:
    status = troubled(crashed(1, "boom"))
    again = look(
        serving(status),
        LATER,
        deployment=deployment(1, ready=0),
        replica_sets=[replica_set()],
        pods=[crashed(1, "boom", name="d-9", at=LATER)],
    )
    assert again["lastFailure"] == status["lastFailure"]


def test_what_the_program_said_goes_before_what_followed_from_it() -> None:
    status = troubled(unschedulable("none", "d-0"), crashed(65, {"reason": "ModelCorrupt", "message": "x"}), replicas=2)
    assert conditions(status)["Ready"][1] == "ModelCorrupt"
    assert conditions(status)["CapacityAvailable"][0] == "False"


@pytest.mark.parametrize(
    ("words", "reason", "capacity"),
    [
        ('pods "d-7f-abcde" is forbidden: exceeded quota: q, requested: cpu=1', "QuotaExceeded", "False"),
        ('pods "d-7f-abcde" is forbidden: violates PodSecurity "restricted:latest"', "PodsRefused", "Unknown"),
    ],
)
def test_pods_the_api_server_refuses(words: str, reason: str, capacity: str) -> None:
    failure = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": words}
    seen = {"replica_sets": [replica_set(replicas=0)], "pods": []}
    status = look(serving(), deployment=deployment(1, ready=0, replicas=0, conditions=[failure]), **seen)
    assert conditions(status)["Ready"][1] == reason
    assert conditions(status)["CapacityAvailable"][0] == capacity
    assert "abcde" not in message(status, "Ready")


def test_a_problem_of_the_operators_own() -> None:
    final = look(serving(), problem=Problem("InvalidSpec", "write it otherwise"))
    assert conditions(final)["Ready"] == ("False", "InvalidSpec")
    assert conditions(final)["Stalled"] == ("True", "InvalidSpec")
    assert final["lastFailure"]["message"] == "write it otherwise"
    passing = look(serving(), problem=Problem("ApiUnavailable", "later", final=False))
    assert conditions(passing)["Ready"] == ("Unknown", "ApiUnavailable")
    assert conditions(passing)["Stalled"][0] == "False"


def test_waiting_for_training_keeps_what_is_served() -> None:
    before = look(serving(), deployment=deployment(1))
    status = look(serving(before), model=Waiting("WaitingForTraining", "not yet"))
    assert conditions(status)["Ready"] == ("Unknown", "WaitingForTraining")
    assert status["model"] == before["model"]


def test_no_replicas_are_wanted() -> None:
    status = look(serving(replicas=0), deployment=deployment(0))
    assert conditions(status)["Ready"] == ("True", "ScaledToZero")
    assert status["replicasSummary"] == "0/0"


SCALING = {"maxReplicas": 4, "metrics": [{"type": "Concurrency", "target": "8"}]}
FOLLOWING = ("True", "Following", "replicas follow the load")


def test_scaling_tells_of_changes_and_not_of_every_demand() -> None:
    first = look(
        serving(scaling=SCALING), deployment=deployment(1), scaling=Decision(1, "demand 1 / target 8 → 1", FOLLOWING)
    )
    assert first["scaling"] == {"reason": "demand 1 / target 8 → 1"}
    same = look(
        serving(first, scaling=SCALING),
        LATER,
        deployment=deployment(1),
        scaling=Decision(1, "demand 2 / target 8 → 1", FOLLOWING),
    )
    assert same == first
    more = look(
        serving(first, scaling=SCALING),
        LATER,
        deployment=deployment(2),
        scaling=Decision(2, "demand 13 / target 8 → 2", FOLLOWING),
    )
    assert more["desiredReplicas"] == 2
    change = {"time": LATER, "from": 1, "to": 2, "reason": "demand 13 / target 8 → 2"}
    assert more["scaling"] == {"reason": "demand 13 / target 8 → 2", "lastScaleTime": LATER, "history": [change]}
    assert conditions(more)["ScalingActive"] == ("True", "Following")


def test_only_the_last_ten_changes_are_kept() -> None:
    status: dict[str, Any] = {}
    for count in range(1, 15):
        decision = Decision(1 + count % 4, f"change {count}", FOLLOWING)
        status = look(serving(status, scaling=SCALING), deployment=deployment(1), scaling=decision)
    history = status["scaling"]["history"]
    assert len(history) == 10
    assert history[-1]["reason"] == "change 14"


def test_without_scaling_nothing_is_left_of_it() -> None:
    before = look(serving(scaling=SCALING), deployment=deployment(1), scaling=Decision(1, "x", FOLLOWING))
    after = look(serving(before), deployment=deployment(1))
    assert "scaling" not in after
    assert "ScalingActive" not in conditions(after)


def test_before_the_first_decision_what_was_said_stands() -> None:
    before = look(serving(scaling=SCALING), deployment=deployment(3), scaling=Decision(3, "x", FOLLOWING))
    assert look(serving(before, scaling=SCALING), LATER, deployment=deployment(3)) == before
