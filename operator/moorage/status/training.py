"""A TrainingJob's status from its Job, its pods and what the first worker reports.

The end comes from the Job; the result and the cause of a failure from the programs' termination messages. Once it has
ended the status is kept for ever, also when Job and pods are gone.
"""

from dataclasses import dataclass, field
from typing import Any

from moorage.api.conditions import clip, find, renewed
from moorage.api.facts import Problem
from moorage.api.names import TRAINER
from moorage.api.trainingjob import TrainingJob
from moorage.status.cause import root_cause
from moorage.status.finding import Finding
from moorage.status.kubelet import MOUNTING_SECONDS, Circumstances, Hearsay, seconds
from moorage.status.measures import metrics, output, progress
from moorage.status.pods import findings, report_of
from moorage.status.refused import refusal
from moorage.status.verdict import worst_of

Object = dict[str, Any]
Text = tuple[str, str, str]

_DEADLINE = "DeadlineExceeded"


@dataclass(frozen=True)
class TrainingObserved:
    job: Object | None = None
    pods: list[Object] = field(default_factory=list)
    progress: Object | None = None
    problem: Problem | None = None
    heard: Hearsay = field(default_factory=dict)
    """Events of pods that have waited for longer than usual, and of the Job when it has no pods."""


@dataclass(frozen=True)
class _State:
    """Succeeded, Running, CapacityAvailable and Stalled, each as status, reason and message."""

    succeeded: Text
    running: Text
    capacity: Text
    stalled: Text = ("False", "NotStalled", "the spec need not change")


def compute(tj: TrainingJob, observed: TrainingObserved, now: str) -> dict[str, Any]:
    old = tj.status
    if tj.finished:
        return _kept(tj, observed.job)
    ended = _end(observed.job)
    failure = root_cause(observed.pods, old.get("lastFailure"), since=_time(observed.job, "startTime"))
    active = _active(observed)
    trouble = [*findings(observed.pods, Circumstances(now, observed.heard)), *_refused(observed)]
    state = _state(tj, observed, trouble, ended, failure, active)
    # As soon as it is known: the pods may be gone by the time the Job is complete.
    result = _result(observed.pods)

    status: dict[str, Any] = {
        "observedGeneration": tj.metadata.generation,
        "startTime": _time(observed.job, "startTime") or old.get("startTime"),
        "completionTime": (_time(observed.job, "completionTime") or _ended_at(observed.job) or now) if ended else None,
        "activeWorkers": active,
        "workersSummary": f"{active}/{tj.spec.workers}",
        "progress": progress(observed.progress, old.get("progress"), done=ended == "Complete"),
        "metrics": metrics(observed.progress, result, old.get("metrics")),
        "lastFailure": _last_failure(state, failure, trouble, observed, old.get("lastFailure"), now),
        "output": output(result) or old.get("output"),
        "conditions": _conditions(tj, state, now),
    }
    status["stages"] = _stages(status, state)
    return {key: value for key, value in status.items() if value not in (None, {}, [])}


def _kept(tj: TrainingJob, job: Object | None) -> dict[str, Any]:
    """Ended: nothing changes any more but the generation it was looked at, and the pods that leave."""
    active = int(((job or {}).get("status") or {}).get("active") or 0)
    generation = tj.metadata.generation
    return {
        **tj.status,
        "observedGeneration": generation,
        "activeWorkers": active,
        "workersSummary": f"{active}/{tj.spec.workers}",
        "conditions": [{**c, "observedGeneration": generation} for c in tj.status.get("conditions") or []],
    }


def _state(
    tj: TrainingJob,
    observed: TrainingObserved,
    trouble: list[Finding],
    ended: str | None,
    failure: Object | None,
    active: int,
) -> _State:
    capacity = _capacity(tj, observed, trouble)
    idle = ("False", "NotRunning", "no worker runs")
    if ended == "Complete":
        done = ("True", "Succeeded", "all workers finished")
        return _State(done, ("False", "Succeeded", "the training has ended"), capacity)
    if ended == "Failed":
        reason, message = _failed_because(observed.job, failure)
        over = ("False", reason, "the training has ended")
        return _State(("False", reason, message), over, capacity, ("True", reason, message))
    if observed.problem is not None:
        reason, message = observed.problem.reason, observed.problem.message
        if observed.problem.final:
            return _State(("False", reason, message), idle, capacity, ("True", reason, message))
        return _State(("Unknown", reason, message), idle, capacity)
    if observed.job is None:
        return _State(("Unknown", "Creating", "the Job is being made"), idle, capacity)

    worst = worst_of(finding for finding in trouble if finding.kind != "Program")
    if active == tj.spec.workers and (worst is None or worst.kind == "Waiting"):
        running = ("True", "Running", f"{active} of {tj.spec.workers} workers run")
        return _State(("Unknown", "Running", running[2]), running, capacity)
    reason, message = (worst.reason, worst.message) if worst else ("Starting", "workers are being started")
    if failure is not None and _condition(observed.job, "FailureTarget"):
        # Failed for good; the Job says so when its last pod is gone.
        reason, message = "Failing", f"workers are being stopped after {failure['reason']}: {failure['message']}"
    elif failure is not None and (worst is None or worst.kind == "Waiting"):
        reason, message = "Restarting", f"workers are started again after {failure['reason']}: {failure['message']}"
    return _State(("Unknown", reason, message), ("False", reason, message), capacity)


def _failed_because(job: Object | None, failure: Object | None) -> tuple[str, str]:
    condition = _condition(job, "Failed") or {}
    said = condition.get("reason") or "Failed"
    if said == _DEADLINE:
        return said, "stopped after activeDeadlineSeconds: give it more time or less to do"
    if failure is not None:
        return failure["reason"], failure["message"]
    return said, condition.get("message") or "the Job failed"


def _last_failure(
    state: _State,
    failure: Object | None,
    trouble: list[Finding],
    observed: TrainingObserved,
    before: Object | None,
    now: str,
) -> Object | None:
    """What a program told; else what none could tell of: a deadline, a spec that cannot be, a claim that is not
    there."""
    if failure is not None and state.succeeded[1] != _DEADLINE:
        return failure
    time = _ended_at(observed.job) or now
    outside = worst_of(finding for finding in trouble if finding.kind == "Environment")
    if state.succeeded[0] == "False":
        fresh = {"time": time, "reason": state.succeeded[1], "message": clip(state.succeeded[2])}
    elif outside is not None:
        fresh = {"time": time, "reason": outside.reason, "message": clip(outside.message)}
        if outside.pod:
            fresh["pod"] = outside.pod
    else:
        return before
    # The same again is no news: its time says since when.
    same = before is not None and all(before.get(key) == fresh[key] for key in ("reason", "message"))
    return before if same else fresh


def _capacity(tj: TrainingJob, observed: TrainingObserved, trouble: list[Finding]) -> Text:
    short = [finding for finding in trouble if finding.kind == "Capacity"]
    if short:
        worst = min(short, key=lambda finding: (finding.reason, finding.pod))
        return "False", worst.reason, worst.message
    before = find(tj.status.get("conditions"), "CapacityAvailable")
    if _active(observed) == tj.spec.workers:
        return "True", "Scheduled", "all workers have their place"
    if before is not None and before["status"] == "True":
        return "True", before["reason"], before["message"]
    return "Unknown", "NotScheduledYet", "not all workers have their place yet"


def silent(job: Object | None, pods: list[Object], now: str) -> list[Object]:
    """The Job, if it should have pods and has none: its controller may not make them."""
    waits = job is not None and not pods and not _end(job) and seconds(_time(job, "startTime"), now) >= MOUNTING_SECONDS
    return [job] if job is not None and waits else []


def _refused(observed: TrainingObserved) -> list[Finding]:
    """A Job without pods: what its controller says of it, which is in Events alone."""
    if observed.job is None or observed.pods:
        return []
    told = observed.heard.get(str(observed.job["metadata"].get("uid")), [])
    last = next((one for one in reversed(told) if one.reason == "FailedCreate"), None)
    return [] if last is None else [refusal(last.words)]


def _result(pods: list[Object]) -> Object:
    """What index 0 left in its termination message."""
    for pod in sorted(pods, key=lambda pod: str(pod["metadata"]["name"])):
        report = report_of(pod, TRAINER)
        if report.get("reason") == "Succeeded" and (report.get("output") or report.get("metrics")):
            return report
    return {}


def _conditions(tj: TrainingJob, state: _State, now: str) -> list[Object]:
    wanted = {
        "Succeeded": state.succeeded,
        "Running": state.running,
        "CapacityAvailable": state.capacity,
        "Stalled": state.stalled,
    }
    return renewed(tj.status.get("conditions"), wanted, generation=tj.metadata.generation, now=now)


def _stages(status: Object, state: _State) -> list[Object]:
    states = {"True": "Succeeded", "False": "Failed"}
    now = states.get(state.succeeded[0]) or ("Running" if state.running[0] == "True" else "Pending")
    stage = {
        "name": "Train",
        "state": now,
        "startTime": status["startTime"],
        "completionTime": status["completionTime"],
        "message": None if now in ("Running", "Succeeded") else clip(state.succeeded[2]),
    }
    return [{key: value for key, value in stage.items() if value is not None}]


def _end(job: Object | None) -> str | None:
    return next((type for type in ("Complete", "Failed") if _condition(job, type)), None)


def _condition(job: Object | None, type: str) -> Object | None:
    """A condition of the Job that holds."""
    condition = find(((job or {}).get("status") or {}).get("conditions"), type)
    return condition if condition is not None and condition["status"] == "True" else None


def _ended_at(job: Object | None) -> str | None:
    return (_condition(job, _end(job) or "") or {}).get("lastTransitionTime")


def _time(job: Object | None, key: str) -> str | None:
    return ((job or {}).get("status") or {}).get(key)


def _active(observed: TrainingObserved) -> int:
    """Workers that run: their pods, where they were looked at, else what the Job says is ready."""
    if observed.pods:
        return sum(
            (pod.get("status") or {}).get("phase") == "Running" and not pod["metadata"].get("deletionTimestamp")
            for pod in observed.pods
        )
    return int(((observed.job or {}).get("status") or {}).get("ready") or 0)
