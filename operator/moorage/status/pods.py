"""What pods say about themselves, as findings: what is wrong or awaited, in the words of who knows.

The scheduler speaks in a condition, our programs in their termination message, the kubelet as `kubelet` has it. No
logs are read.
"""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import AwareDatetime, TypeAdapter, ValidationError

from moorage.status.finding import Finding
from moorage.status.kubelet import START, Circumstances, container_waits, missing, pod_waits
from moorage.status.words import last_words

Pod = dict[str, Any]

_AT: TypeAdapter[AwareDatetime] = TypeAdapter(AwareDatetime)
_ANY_TIME = Circumstances()

# That no pod may be evicted for it either follows from the rest, and comes and goes.
_NO_EVICTION = re.compile(r" no new claims to deallocate\b| preemption: ")
_TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)$")


def findings(pods: Iterable[Pod], around: Circumstances = _ANY_TIME) -> list[Finding]:
    """At most one of each pod, in the order of their names."""
    found = (explain(pod, around) for pod in sorted(pods, key=lambda pod: str(pod["metadata"]["name"])))
    return [finding for finding in found if finding is not None]


def explain(pod: Pod, around: Circumstances = _ANY_TIME) -> Finding | None:
    """What keeps this pod from being ready; None when nothing does, or when it is leaving."""
    status, name = pod.get("status") or {}, pod["metadata"]["name"]
    if pod["metadata"].get("deletionTimestamp") or is_ready(pod):
        return None
    scheduled = condition_of(status, "PodScheduled")
    if scheduled is not None and scheduled.get("status") == "False":
        return _unscheduled(name, scheduled.get("message") or "")
    containers = list(all_containers(pod))
    return (
        next((found for c in containers if (found := container_waits(name, c))), None)
        or next((found for c in containers if (found := ended(pod, c))), None)
        or _evicted(name, status)
        or pod_waits(pod, containers, around)
    )


def ended(pod: Pod, container: dict[str, Any]) -> Finding | None:
    """How a container that is not ready ended, now or before its last restart."""
    if container.get("ready"):
        return None
    state, before = container.get("state") or {}, container.get("lastState") or {}
    end = state.get("terminated") or (None if _through_start(pod, container) else before.get("terminated"))
    if end is None:
        return None
    looping = (state.get("waiting") or {}).get("reason") == "CrashLoopBackOff"
    if not end.get("exitCode") and not end.get("signal") and not looping:
        return None
    return _ended(pod, container, end)


def _through_start(pod: Pod, container: dict[str, Any]) -> bool:
    """Whether what it waits for now is something else than before its last restart.

    An init container is through when it has ended, though the kubelet calls it started as soon as it runs. One that
    still runs when all have been through is a sidecar.
    """
    status = pod["status"]
    init = any(one["name"] == container["name"] for one in status.get("initContainerStatuses") or [])
    through = (condition_of(status, "Initialized") or {}).get("status") == "True"
    return bool(container.get("started")) and (through or not init)


def _ended(pod: Pod, container: dict[str, Any], end: dict[str, Any]) -> Finding:
    code, said = end.get("exitCode"), (end.get("message") or "").strip()
    report = _report(said)
    reason, message = report.get("reason"), report.get("message")
    # Where not even the start fits, the runtime is killed in the container's place and says so in words.
    if end.get("reason") == "OOMKilled" or "OOM-killed" in said:
        words = f" ({message})" if message else ""
        reason, message = "OutOfMemory", f"killed when it needed more memory than its limit{words}: raise limits.memory"
    elif end.get("reason") in START:
        reason, message = "StartFailed", said or "the container could not be started"
    elif not reason:
        reason = "Failed" if (pod.get("spec") or {}).get("restartPolicy") == "Never" else "CrashLoop"
        message = f"ended with exit code {code}" + (f": {last_words(said)}" if said else "")
    return Finding(
        kind="Program",
        reason=_camel(str(reason)),
        message=str(message or reason),
        pod=pod["metadata"]["name"],
        container=container["name"],
        exit_code=code,
        time=_time(report.get("time")) or end.get("finishedAt"),
        restarts=int(container.get("restartCount") or 0),
        report=report,
    )


def _unscheduled(pod: str, message: str) -> Finding:
    absent = missing(message)
    if absent and absent.group(1).lower() == "persistentvolumeclaim":
        return Finding("Environment", "ClaimNotFound", f'PersistentVolumeClaim "{absent.group(2)}" not found', pod)
    if "unbound immediate PersistentVolumeClaims" in message:
        return Finding("Environment", "ClaimNotBound", message, pod)
    words = _NO_EVICTION.split(message)[0].strip()
    return Finding("Capacity", "InsufficientCapacity", words or "no node takes the pod", pod)


def _evicted(pod: str, status: dict[str, Any]) -> Finding | None:
    if status.get("phase") != "Failed":
        return None
    reason, message = status.get("reason") or "PodFailed", status.get("message") or "the pod failed"
    return Finding("Program", _camel(reason), message, pod, time=status.get("startTime"))


def all_containers(pod: Pod) -> Iterator[dict[str, Any]]:
    """The state of each. Init containers first: what they did not do is why the others wait."""
    status = pod.get("status") or {}
    yield from status.get("initContainerStatuses") or []
    yield from status.get("containerStatuses") or []


def condition_of(status: dict[str, Any], type: str) -> dict[str, Any] | None:
    return next((c for c in status.get("conditions") or [] if c.get("type") == type), None)


def is_ready(pod: Pod) -> bool:
    ready = condition_of(pod.get("status") or {}, "Ready")
    return ready is not None and ready.get("status") == "True"


def report_of(pod: Pod, container: str) -> dict[str, Any]:
    """The termination message of a container that has ended, where it is one of ours."""
    for found in all_containers(pod):
        if found["name"] == container:
            return _report(((found.get("state") or {}).get("terminated") or {}).get("message") or "")
    return {}


def _time(value: Any) -> str | None:
    """What a program calls a time, if the API server would call it one too."""
    if not isinstance(value, str) or not _TIME.match(value):
        return None
    try:
        _AT.validate_python(value)
    except ValidationError:  # the 30th of February
        return None
    return value


def _report(message: str) -> dict[str, Any]:
    """A termination message that is one of ours; else nothing. With FallbackToLogsOnError it may be any text."""
    try:
        report = json.loads(message)
    except ValueError:
        return {}
    return report if isinstance(report, dict) and isinstance(report.get("reason"), str) else {}


def _camel(reason: str) -> str:
    """A condition's reason must look like one, whatever a program wrote."""
    clean = re.sub(r"[^A-Za-z0-9_,:]", "", reason)[:256].rstrip(",:")
    return clean if re.match(r"[A-Za-z]", clean) else "Failed"
