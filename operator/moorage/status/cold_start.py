"""Where the time goes between a pod's creation and its first request, step by step: the start that people measure by
hand (kaito#2325).

Of the first pod of the current template that became ready, and never written again while the template stays: later
replicas find images and page caches warm, and a status must not move by itself. The kubelet's times are whole seconds;
what the server tells of itself is finer.
"""

import calendar
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moorage.api.names import SERVER
from moorage.status.pods import condition_of, report_of

Object = dict[str, Any]

_TIME = re.compile(r"^(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)")
_FETCH, _HASH = "fetch", "pod-template-hash"
MOST_FAILED = 64


@dataclass(frozen=True)
class ServerTimes:
    """What a server says of its own start, in seconds. None where it does not say."""

    load: float | None = None
    warm_up: float | None = None
    speeds: tuple[tuple[int, float], ...] = ()
    """Rows a second of the model alone, by the size of a batch."""
    failed: tuple[tuple[str, str], ...] = ()
    """Of several models those that it could not load, each with the reason; MOST_FAILED at most."""


def compute(
    old: Object | None, replica_set: Object | None, pods: list[Object], told: Mapping[str, ServerTimes]
) -> Object | None:
    """The ladder, or what was known of it. `told`: what servers said, by the name of their pod."""
    revision = _revision(replica_set)
    if revision is None or complete(old, replica_set):
        return old
    known = old if begun(old, replica_set) else None
    # Those of the template before are there too, and have been ready for longer.
    current = [pod for pod in pods if (pod["metadata"].get("labels") or {}).get(_HASH) == revision]
    ready = [(at, pod["metadata"]["name"], pod) for pod in current if (at := _since(pod, "Ready")) is not None]
    if known is not None:
        ready = [entry for entry in ready if entry[1] == known["pod"] and entry[1] in told]
    if not ready:
        return known
    at, name, pod = min(ready)
    created = _moment(pod["metadata"]["creationTimestamp"])
    server = told.get(name, ServerTimes())
    ladder = {
        "pod": name,
        "revision": revision,
        "totalSeconds": max(0, at - created),
        "steps": _steps(pod, at, server),
    }
    more = {
        "speeds": [{"batchSize": rows, "samplesPerSecond": _decimal(speed)} for rows, speed in server.speeds],
        "failedModels": [{"name": model, "reason": reason} for model, reason in server.failed],
    }
    return ladder | {key: value for key, value in more.items() if value}


def begun(old: Object | None, replica_set: Object | None) -> bool:
    """Whether there is a ladder of the current template. The server's own times may still come: a moment after its pod
    is ready."""
    return old is not None and old.get("revision") == _revision(replica_set)


def complete(old: Object | None, replica_set: Object | None) -> bool:
    return begun(old, replica_set) and "Loaded" in _names(old or {})


def _revision(replica_set: Object | None) -> str | None:
    """The hash of the pod template, as Kubernetes names the pods by it."""
    return None if replica_set is None else replica_set["spec"]["template"]["metadata"]["labels"].get(_HASH)


def _names(ladder: Object) -> list[str]:
    return [step["name"] for step in ladder.get("steps") or ()]


def _steps(pod: Object, ready: int, server: ServerTimes) -> list[Object]:
    """In their order; together they are the whole. Steps that this pod has not are left out."""
    created = _moment(pod["metadata"]["creationTimestamp"])
    scheduled = max(created, _since(pod, "PodScheduled") or created)
    runs = [run for status in _statuses(pod) if (run := _run(status)) is not None]
    served = runs[-1].began if runs else ready
    fetch = sum(run.seconds for run in runs if run.name == _FETCH)
    others = sum(run.seconds for run in runs if run.name != _FETCH)
    found = [
        _step("Scheduled", scheduled - created),
        # What is no program's time is the kubelet's: before each of them it pulls its image.
        _step("ImagePulled", served - scheduled - fetch - others),
    ]
    if any(run.name == _FETCH for run in runs):
        size = report_of(pod, _FETCH).get("bytes")
        known = isinstance(size, int) and not isinstance(size, bool) and size >= 0
        found.append({**_step("ModelFetched", fetch), **({"bytes": size} if known else {})})
    if others:
        found.append(_step("ModelPrepared", others))
    if server.load is not None:
        found.append(_step("Loaded", server.load))
    if server.warm_up is not None:
        found.append(_step("Warmed", server.warm_up))
    # The rest: the program's own start, and the probe that found it ready.
    found.append(_step("Ready", ready - served - (server.load or 0) - (server.warm_up or 0)))
    return found


@dataclass(frozen=True)
class _Run:
    name: str
    began: int
    seconds: int


def _run(status: Object) -> _Run | None:
    """When a container ran, and for how long if it has ended. None: it has not begun."""
    state = status.get("state") or {}
    ran = state.get("terminated") or state.get("running") or {}
    if not ran.get("startedAt"):
        return None
    began = _moment(ran["startedAt"])
    return _Run(status["name"], began, max(0, _moment(ran["finishedAt"]) - began) if ran.get("finishedAt") else 0)


def _statuses(pod: Object) -> list[Object]:
    status = pod.get("status") or {}
    servers = [found for found in status.get("containerStatuses") or () if found["name"] == SERVER]
    return [*(status.get("initContainerStatuses") or []), *servers]


def _since(pod: Object, type: str) -> int | None:
    """Since when a condition is True."""
    found = condition_of(pod.get("status") or {}, type)
    if found is None or found.get("status") != "True" or not found.get("lastTransitionTime"):
        return None
    return _moment(found["lastTransitionTime"])


def _moment(time: str) -> int:
    match = _TIME.match(time)
    return calendar.timegm(tuple(int(part) for part in match.groups())) if match else 0


def _step(name: str, seconds: float) -> Object:
    return {"name": name, "seconds": _decimal(seconds)}


def _decimal(value: float) -> str:
    return f"{max(0, value):.3f}".rstrip("0").rstrip(".")
