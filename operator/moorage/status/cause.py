"""Why a training failed: of all that its pods say, the first cause, not what followed from it.

When one worker dies the others lose their peer and end too, seconds later and in any order. So a loss of peers counts
only when nothing else is known, a transient end only when there is no final one, and then the earliest is the cause.
"""

from collections.abc import Iterable
from typing import Any

from moorage.status.finding import TRANSIENT, Finding
from moorage.status.measures import whole
from moorage.status.pods import Pod, all_containers, ended

Object = dict[str, Any]

_CONSEQUENCES = {"PeerLost", "Terminated"}
_LINES = 50
_LINE = 1024


def root_cause(pods: Iterable[Pod], before: Object | None, *, since: str | None) -> Object | None:
    """The program's failure to tell of, if any. `before`: what an earlier look found, which counts too, as its pod
    may be gone; but not if it is of a run before `since`, or not of a program (a claim that was missing for a
    while)."""
    known = [
        _failure(finding) for pod in pods for container in all_containers(pod) if (finding := ended(pod, container))
    ]
    if before is not None and "exitCode" in before and not (since and _moment(before.get("time")) < _moment(since)):
        known.append(before)
    return min(known, key=_rank, default=None)


def _rank(failure: Object) -> tuple[bool, bool, str, str]:
    transient = failure.get("exitCode") == TRANSIENT
    return transient, failure["reason"] in _CONSEQUENCES, _moment(failure.get("time")), failure.get("pod") or ""


def _moment(time: str | None) -> str:
    """Comparable as text: times of whole seconds and of fractions, all in UTC. Unknown is late."""
    return time.removesuffix("Z").removesuffix("+00:00") if time else "~"


def _failure(finding: Finding) -> Object:
    report = finding.report
    found: Object = {
        "time": finding.time,
        "reason": finding.reason,
        "message": finding.message,
        "pod": finding.pod,
        "container": finding.container,
        "exitCode": finding.exit_code,
        "rank": whole(report.get("rank")),
        "localRank": whole(report.get("localRank")),
        "signal": str(report["signal"])[:_LINE] if report.get("signal") else None,
        "host": str(report["host"])[:_LINE] if report.get("host") else None,
        "step": whole(report.get("step")),
        "lastLines": _lines(report.get("lastLines")),
    }
    return {key: value for key, value in found.items() if value is not None}


def _lines(lines: Any) -> list[str] | None:
    if not isinstance(lines, list) or not lines:
        return None
    return [str(line)[:_LINE] for line in lines[-_LINES:]]
