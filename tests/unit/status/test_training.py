"""A TrainingJob's status: progress on the way, the result at the end, and of a failure the first cause."""

from typing import Any

import pytest

from moorage.api.conditions import find
from moorage.api.facts import Problem
from moorage.api.trainingjob import TrainingJob
from moorage.api.trainingjob_status import TrainingJobStatus
from moorage.status.kubelet import Heard
from moorage.status.training import TrainingObserved, compute, silent
from unit.status.objects import LATER, NOW, job, unschedulable, waiting, worker

DONE = {
    "reason": "Succeeded",
    "output": {"uri": "pvc://m/1", "sha256": "ab", "sizeBytes": 123},
    "metrics": {"accuracy": 0.97812345, "epochs": 3},
    "time": NOW,
}
PROGRESS = {
    "step": 42, "totalSteps": 100, "percent": 42.7, "epoch": 3, "etaSeconds": 310.4, "samplesPerSecond": 5210.1234,
    "metrics": {"loss": 0.25},
}  # fmt: skip
PEER_LOST = {"reason": "PeerLost", "message": "rank 1 went away", "time": "2026-01-01T11:30:01Z"}
SCRIPT = {
    "reason": "ScriptFailed", "message": "ValueError: no", "time": "2026-01-01T11:30:00Z", "rank": 1, "localRank": 0,
    "exitCode": 1, "host": "t-train-1", "step": 17, "lastLines": ["Traceback", "ValueError: no"],
}  # fmt: skip


def training(status: dict[str, Any] | None = None, *, generation: int = 1, workers: int = 2) -> TrainingJob:
    spec = {"workers": workers, "trainer": {"script": {"command": ["x"]}}, "output": {"uri": "pvc://m/1"}}
    return TrainingJob.parse(
        {"metadata": {"name": "t", "generation": generation}, "spec": spec, "status": status or {}}
    )


def look(tj: TrainingJob, now: str = NOW, **observed: Any) -> dict[str, Any]:
    status = compute(tj, TrainingObserved(**observed), now)
    TrainingJobStatus.model_validate(status, extra="forbid")
    return status


def conditions(status: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}


def test_first_look() -> None:
    status = look(training(generation=4))
    assert conditions(status)["Succeeded"] == ("Unknown", "Creating")
    assert (status["observedGeneration"], status["workersSummary"]) == (4, "0/2")
    assert status["stages"] == [{"name": "Train", "state": "Pending", "message": "the Job is being made"}]


def test_running() -> None:
    status = look(training(), job=job(), pods=[worker(0), worker(1)], progress=PROGRESS)
    assert conditions(status) == {
        "Succeeded": ("Unknown", "Running"),
        "Running": ("True", "Running"),
        "CapacityAvailable": ("True", "Scheduled"),
        "Stalled": ("False", "NotStalled"),
    }
    assert status["progress"] == {
        "step": 42,
        "totalSteps": 100,
        "epoch": 3,
        "etaSeconds": 310,
        "percent": 42,
        "summary": "42%",
        "eta": "5m10s",
        "samplesPerSecond": "5210.12",
    }
    assert status["metrics"] == {"loss": "0.25"}
    assert status["stages"] == [{"name": "Train", "state": "Running", "startTime": "2026-01-01T11:00:00Z"}]
    assert status["workersSummary"] == "2/2"


def test_looking_again_changes_nothing() -> None:
    for seen in (
        {"job": job(), "pods": [worker(0), worker(1)], "progress": PROGRESS},
        {"job": job(), "pods": [unschedulable("none")]},
        {"job": job(), "pods": [waiting("ErrImagePull", "no", container="trainer")]},
        {"job": job(), "pods": [worker(0, phase="Failed", code=75, message=PEER_LOST)]},
        {"problem": Problem("InvalidSpec", "no")},
    ):
        first = look(training(), **seen)
        assert look(training(first), LATER, **seen) == first


def test_without_an_answer_the_progress_known_stays() -> None:
    first = look(training(), job=job(), pods=[worker(0), worker(1)], progress=PROGRESS)
    assert look(training(first), job=job(), pods=[worker(0), worker(1)])["progress"] == first["progress"]


def test_what_a_program_reports_in_another_form_is_left_out() -> None:
    odd = {
        "step": "7",
        "percent": float("nan"),
        "epoch": True,
        "metrics": {"a": "high", "b": 1.0},
        "samplesPerSecond": None,
    }
    status = look(training(), job=job(), pods=[worker(0)], progress=odd)
    assert "progress" not in status
    assert status["metrics"] == {"b": "1"}


@pytest.mark.parametrize("most", [1e300, 10**400, 2**63, -(2**64)])
def test_numbers_that_the_api_server_would_refuse_are_left_out(most: float) -> None:
    odd = {"step": 7, "totalSteps": most, "etaSeconds": most, "percent": most, "samplesPerSecond": 1.0}
    status = look(training(), job=job(), pods=[worker(0)], progress=odd)
    assert status["progress"] == {"step": 7, "samplesPerSecond": "1"}
    big = {**DONE, "output": {**DONE["output"], "sizeBytes": most}}  # type: ignore[dict-item]
    pods = [worker(0, phase="Succeeded", code=0, message=big)]
    assert look(training(), job=job("Complete"), pods=pods)["output"] == {"uri": "pvc://m/1", "sha256": "ab"}


def test_metrics_are_short_texts_however_large_the_number() -> None:
    measured = {"a": 1e300, "b": 10**200, "c": 10**400, "d": 7}
    status = look(training(), job=job(), pods=[worker(0)], progress={"metrics": measured})
    assert status["metrics"] == {"a": "1e+300", "b": "1e+200", "d": "7"}


def test_texts_that_the_api_server_would_refuse_are_left_out_or_cut() -> None:
    long = {**DONE, "output": {"uri": "pvc://m/1", "sha256": "a" * 1025}}
    pods = [worker(0, phase="Succeeded", code=0, message=long)]
    assert look(training(), job=job("Complete"), pods=pods)["output"] == {"uri": "pvc://m/1"}
    pods = [worker(0, phase="Failed", code=1, message={**SCRIPT, "signal": "S" * 2000, "time": "2026-02-30T00:00:00Z"})]
    failure = look(training(), job=job("Failed"), pods=pods)["lastFailure"]
    assert len(failure["signal"]) == 1024
    assert failure["time"] == NOW, "what the kubelet says"


def test_succeeded() -> None:
    before = look(training(), job=job(), pods=[worker(0), worker(1)], progress=PROGRESS)
    pods = [worker(0, phase="Succeeded", code=0, message=DONE), worker(1, phase="Succeeded", code=0)]
    status = look(training(before), job=job("Complete"), pods=pods)
    assert conditions(status)["Succeeded"] == ("True", "Succeeded")
    assert conditions(status)["Running"][0] == "False"
    assert status["output"] == {"uri": "pvc://m/1", "sha256": "ab", "sizeBytes": 123}
    assert status["metrics"] == {"accuracy": "0.978123", "epochs": "3"}
    assert status["progress"]["summary"] == "100%"
    assert status["progress"]["step"] == 100
    assert "eta" not in status["progress"]
    assert status["completionTime"] == NOW
    assert status["stages"][0]["state"] == "Succeeded"
    assert "lastFailure" not in status


def test_the_result_is_kept_though_its_pod_goes_before_the_job_is_complete() -> None:
    pods = [worker(0, phase="Succeeded", code=0, message=DONE), worker(1)]
    before = look(training(), job=job(), pods=pods)
    assert conditions(before)["Succeeded"][0] == "Unknown"
    status = look(training(before), job=job("Complete"), pods=[])
    assert status["output"]["sha256"] == "ab"
    assert status["metrics"]["accuracy"] == "0.978123"


def test_finished_is_for_ever() -> None:
    done = look(training(), job=job("Complete"), pods=[worker(0, phase="Succeeded", code=0, message=DONE)])
    gone = look(training(done), LATER)
    assert gone == done
    later = look(training(done, generation=2), LATER)
    assert later["observedGeneration"] == 2
    assert {c["observedGeneration"] for c in later["conditions"]} == {2}
    assert find(later["conditions"], "Succeeded")["lastTransitionTime"] == NOW


def test_the_first_cause_not_what_followed() -> None:
    pods = [
        worker(0, phase="Failed", code=75, message=PEER_LOST | {"time": "2026-01-01T11:29:00Z"}),
        worker(1, phase="Failed", code=1, message=SCRIPT),
    ]
    failed = job("Failed", reason="PodFailurePolicy", message="Container trainer for pod n/t failed with exit code 1")
    status = look(training(), job=failed, pods=pods)
    assert conditions(status)["Succeeded"] == ("False", "ScriptFailed")
    assert conditions(status)["Stalled"] == ("True", "ScriptFailed")
    assert status["lastFailure"] == {
        "time": "2026-01-01T11:30:00Z",
        "reason": "ScriptFailed",
        "message": "ValueError: no",
        "pod": "t-train-1-abcde",
        "container": "trainer",
        "exitCode": 1,
        "rank": 1,
        "localRank": 0,
        "host": "t-train-1",
        "step": 17,
        "lastLines": ["Traceback", "ValueError: no"],
    }
    assert status["stages"][0] == {
        "name": "Train",
        "state": "Failed",
        "startTime": "2026-01-01T11:00:00Z",
        "completionTime": NOW,
        "message": "ValueError: no",
    }


def test_of_two_causes_the_earlier() -> None:
    pods = [
        worker(0, phase="Failed", code=1, message=SCRIPT | {"time": "2026-01-01T11:30:00.5Z", "rank": 0}),
        worker(1, phase="Failed", code=1, message=SCRIPT),
    ]
    assert look(training(), job=job(), pods=pods)["lastFailure"]["rank"] == 1


def test_a_cause_seen_before_goes_before_what_followed() -> None:
    seen = look(training(), job=job(), pods=[worker(1, phase="Failed", code=1, message=SCRIPT)])
    after = look(training(seen), job=job("Failed"), pods=[worker(0, phase="Failed", code=75, message=PEER_LOST)])
    assert after["lastFailure"]["reason"] == "ScriptFailed"


def test_a_former_run_is_not_the_cause_of_this_one() -> None:
    """The user changed the resources and the Job was made anew."""
    seen = look(training(), job=job(), pods=[worker(1, phase="Failed", code=1, message=SCRIPT)])
    anew = job("Failed", start="2026-01-01T11:45:00Z")
    later = worker(0, phase="Failed", code=66, message={"reason": "DataNotFound", "message": "no", "time": LATER})
    assert look(training(seen), job=anew, pods=[later])["lastFailure"]["reason"] == "DataNotFound"


def test_a_claim_that_was_missing_for_a_while_is_not_the_cause_of_a_later_failure() -> None:
    missing = unschedulable('persistentvolumeclaim "m" not found')
    seen = look(training(), job=job(), pods=[missing])
    assert conditions(seen)["Succeeded"] == ("Unknown", "ClaimNotFound")
    assert seen["lastFailure"]["message"] == 'PersistentVolumeClaim "m" not found'
    later = worker(1, phase="Failed", code=1, message=SCRIPT | {"time": LATER})
    assert look(training(seen), job=job("Failed"), pods=[later])["lastFailure"]["reason"] == "ScriptFailed"


def test_a_worker_that_is_tried_again() -> None:
    status = look(training(), job=job(), pods=[worker(0, phase="Failed", code=75, message=PEER_LOST), worker(1)])
    assert conditions(status)["Succeeded"] == ("Unknown", "Restarting")
    assert conditions(status)["Stalled"][0] == "False"


def test_a_training_that_fails_while_its_other_workers_are_stopped() -> None:
    pods = [worker(1, phase="Failed", code=1, message=SCRIPT), worker(0)]
    status = look(training(), job=job("FailureTarget"), pods=pods)
    assert conditions(status)["Succeeded"] == ("Unknown", "Failing")
    assert status["lastFailure"]["reason"] == "ScriptFailed"
    assert "completionTime" not in status


@pytest.mark.parametrize(
    ("words", "reason", "capacity"),
    [
        ('violates PodSecurity "restricted:latest"', "PodsRefused", "Unknown"),
        ("exceeded quota: small, requested: cpu=2", "QuotaExceeded", "False"),
    ],
)
def test_a_job_that_may_not_make_pods(words: str, reason: str, capacity: str) -> None:
    heard = {"job": [Heard("FailedCreate", f'Error creating: pods "t-train-0-x7k" is forbidden: {words}')]}
    status = look(training(), job=job(), heard=heard)
    assert conditions(status)["Succeeded"] == ("Unknown", reason)
    assert find(status["conditions"], "Succeeded")["message"] == words
    assert conditions(status)["CapacityAvailable"][0] == capacity
    assert (status.get("lastFailure") or {}).get("reason") == (reason if reason == "PodsRefused" else None)


def test_when_a_job_without_pods_is_asked_about() -> None:
    assert silent(job(), [], "2026-01-01T11:00:02Z") == []
    assert silent(job(), [], NOW) == [job()]
    assert silent(job(), [worker(0)], NOW) == []
    assert silent(job("Failed"), [], NOW) == []
    assert silent(None, [], NOW) == []


def test_a_pod_without_a_message_tells_its_last_words() -> None:
    pods = [worker(0, phase="Failed", code=139, message="Segmentation fault")]
    failure = look(training(), job=job("Failed"), pods=pods)["lastFailure"]
    assert (failure["reason"], failure["message"]) == ("Failed", "ended with exit code 139: Segmentation fault")


def test_the_deadline() -> None:
    terminated = {"reason": "Terminated", "message": "SIGTERM", "time": NOW}
    pods = [worker(0, phase="Failed", code=75, message=terminated)]
    status = look(training(), job=job("Failed", reason="DeadlineExceeded"), pods=pods)
    assert conditions(status)["Succeeded"] == ("False", "DeadlineExceeded")
    assert status["lastFailure"]["reason"] == "DeadlineExceeded"


def test_no_capacity() -> None:
    words = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
    status = look(training(), job=job(), pods=[worker(0), unschedulable(words, "t-train-1")])
    assert conditions(status)["Succeeded"] == ("Unknown", "InsufficientCapacity")
    assert conditions(status)["Running"] == ("False", "InsufficientCapacity")
    assert conditions(status)["CapacityAvailable"] == ("False", "InsufficientCapacity")
    assert status["workersSummary"] == "1/2"


def test_an_invalid_spec_is_stalled_but_not_the_end() -> None:
    status = look(training(), problem=Problem("InvalidSpec", "write it otherwise"))
    assert conditions(status)["Succeeded"] == ("False", "InvalidSpec")
    assert conditions(status)["Stalled"] == ("True", "InvalidSpec")
    assert not training(status).finished
    mended = look(training(status), LATER, job=job(), pods=[worker(0), worker(1)])
    assert conditions(mended)["Succeeded"] == ("Unknown", "Running")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59, "59s"), (60, "1m"), (310, "5m10s"), (3600, "1h"), (3660, "1h1m"), (90061, "1d1h"), (86460, "1d")],
)
def test_durations_as_people_write_them(seconds: int, text: str) -> None:
    status = look(training(), job=job(), pods=[worker(0)], progress={"etaSeconds": seconds})
    assert status["progress"]["eta"] == text
