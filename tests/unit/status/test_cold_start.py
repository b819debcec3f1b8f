"""The ladder of a start: from the pod's own times, complete, and never written twice."""

from typing import Any

import pytest

from moorage.status.cold_start import ServerTimes, begun, complete, compute
from unit.status.objects import pod, replica_set


def at(second: int) -> str:
    return f"2026-01-01T12:00:{second:02}Z"


def started(name: str = "d-a-1", *, ready: int = 20, fetch: dict[str, Any] | None = None) -> dict[str, Any]:
    """Created at 1, scheduled at 2, fetched from 5 to 9, served from 12."""
    report = '{"reason": "Fetched", "bytes": 1234, "seconds": 3.9}'
    ended = {"terminated": {"startedAt": at(5), "finishedAt": at(9), "exitCode": 0, "message": report}}
    found = pod(
        name,
        conditions=[
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": at(2)},
            {"type": "Ready", "status": "True", "lastTransitionTime": at(ready)},
        ],
        initContainerStatuses=[{"name": "fetch", "state": ended}] if fetch is None else [fetch],
        containerStatuses=[{"name": "server", "ready": True, "state": {"running": {"startedAt": at(12)}}}],
    )
    found["metadata"]["creationTimestamp"] = at(1)
    return found


def seconds(ladder: dict[str, Any] | None) -> dict[str, float]:
    assert ladder is not None
    return {step["name"]: float(step["seconds"]) for step in ladder["steps"]}


def test_each_step_has_its_time_and_together_they_are_the_whole() -> None:
    ladder = compute(None, replica_set(), [started()], {"d-a-1": ServerTimes(2.5, 1.25)})
    assert ladder is not None
    assert seconds(ladder) == {
        "Scheduled": 1, "ImagePulled": 6, "ModelFetched": 4, "Loaded": 2.5, "Warmed": 1.25, "Ready": 4.25,
    }  # fmt: skip
    assert sum(seconds(ladder).values()) == ladder["totalSeconds"] == 19
    assert (ladder["pod"], ladder["revision"]) == ("d-a-1", "a")
    assert ladder["steps"][2]["bytes"] == 1234


def test_a_pod_of_the_template_before_tells_nothing_of_this_one() -> None:
    old = started("d-z-1", ready=15)
    old["metadata"]["labels"]["pod-template-hash"] = "z"
    assert compute(None, replica_set(), [old], {}) is None
    ladder = compute(None, replica_set(), [old, started()], {"d-z-1": ServerTimes(9.0), "d-a-1": ServerTimes(2.5)})
    assert ladder is not None
    assert (ladder["pod"], seconds(ladder)["Loaded"]) == ("d-a-1", 2.5)


def test_speeds_are_told_where_the_server_tells_them() -> None:
    times = ServerTimes(2.5, 1.25, ((1, 900.0), (64, 9000.5)))
    ladder = compute(None, replica_set(), [started()], {"d-a-1": times}) or {}
    assert ladder["speeds"] == [
        {"batchSize": 1, "samplesPerSecond": "900"},
        {"batchSize": 64, "samplesPerSecond": "9000.5"},
    ]
    assert "speeds" not in (compute(None, replica_set(), [started()], {"d-a-1": ServerTimes(2.5)}) or {})


def test_models_that_could_not_be_loaded_are_told() -> None:
    ladder = (
        compute(None, replica_set(), [started()], {"d-a-1": ServerTimes(2.5, failed=(("b", "ModelCorrupt"),))}) or {}
    )
    assert ladder["failedModels"] == [{"name": "b", "reason": "ModelCorrupt"}]


def test_a_pod_without_a_fetch_and_a_silent_server_have_fewer_steps() -> None:
    check = {"name": "repository", "state": {"terminated": {"startedAt": at(5), "finishedAt": at(8)}}}
    ladder = compute(None, replica_set(), [started(fetch=check)], {})
    assert seconds(ladder) == {"Scheduled": 1, "ImagePulled": 7, "ModelPrepared": 3, "Ready": 8}


def test_it_is_of_the_first_pod_that_was_ready() -> None:
    pods = [started("d-a-1", ready=30), started("d-a-2", ready=20), pod("d-a-0")]
    assert (compute(None, replica_set(), pods, {}) or {})["pod"] == "d-a-2"


def test_it_is_not_written_again_but_for_what_the_server_says_later() -> None:
    first = compute(None, replica_set(), [started()], {})
    assert begun(first, replica_set()) and not complete(first, replica_set())
    assert compute(first, replica_set(), [started("d-a-0", ready=13)], {}) is first
    told = compute(first, replica_set(), [started(), started("d-a-0", ready=13)], {"d-a-1": ServerTimes(2.0)})
    assert seconds(told)["Loaded"] == 2
    assert complete(told, replica_set())
    assert compute(told, replica_set(), [started()], {"d-a-1": ServerTimes(7.0)}) is told


def test_another_template_is_another_start() -> None:
    old = compute(None, replica_set(), [started()], {"d-a-1": ServerTimes(1.0)})
    assert compute(old, replica_set("b"), [], {}) is None
    newer = started("d-b-1")
    newer["metadata"]["labels"]["pod-template-hash"] = "b"
    assert (compute(old, replica_set("b"), [newer], {}) or {})["revision"] == "b"
    assert compute(old, None, [], {}) is old


@pytest.mark.parametrize("report", ["", "done", '{"reason": "Fetched", "bytes": true}', '{"reason": "x", "bytes": -1}'])
def test_what_a_program_says_never_makes_it_unreadable(report: str) -> None:
    fetch = {
        "name": "fetch",
        "state": {"terminated": {"startedAt": at(5), "finishedAt": at(4), "exitCode": 0, "message": report}},
    }
    ladder = compute(None, replica_set(), [started(fetch=fetch)], {"d-a-1": ServerTimes(900.0)})
    assert "bytes" not in (ladder or {})["steps"][2]
    assert min(seconds(ladder).values()) >= 0
