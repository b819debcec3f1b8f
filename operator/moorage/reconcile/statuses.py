"""A status written once and only when it differs, and what a change of conditions has to say to people. Pure.

A status goes out as one merge patch of what changed: no conflict with anybody, and nothing at all when it is the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from moorage.api.conditions import Condition, find

# Becoming True is news for these; for the others only trouble is, and the end of it. Progressing would double them.
HEADLINES = ("Ready", "Succeeded", "Running")
TROUBLES = ("Stalled", "ModelLoaded", "CapacityAvailable", "ScalingActive")


def merge_patch(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """What turns `old` into `new` (RFC 7386): lists whole, keys that are gone as null."""
    patch: dict[str, Any] = {key: None for key in old if key not in new}
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            inner = merge_patch(before, value)
            if inner:
                patch[key] = inner
        elif key not in old or before != value:
            patch[key] = value
    return patch


def can_wait(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether nothing turned, for good or ill: only counts and words of what is on its way differ, or good news that
    the headline will tell with the rest."""
    if any(old.get(field) != new.get(field) for field in ("observedGeneration", "desiredReplicas", "lastFailure")):
        return False
    before, after = ({c["type"]: c for c in status.get("conditions") or []} for status in (old, new))
    return before.keys() == after.keys() and not any(_turns(before[type_], after[type_]) for type_ in after)


def _turns(before: Condition, now: Condition) -> bool:
    if now["type"] in HEADLINES:
        said = ("status", "reason", "message") if now["status"] == "True" else ("status",)
        return any(before[field] != now[field] for field in said)
    return _bad(before) != _bad(now) or (_bad(now) and before["reason"] != now["reason"])


@dataclass(frozen=True, slots=True)
class Told:
    type: Literal["Normal", "Warning"]
    reason: str
    note: str
    action: str


def transitions(old: dict[str, Any], new: dict[str, Any]) -> list[Told]:
    """One Event for each condition that turned, and one for each change of replicas."""
    before, after = old.get("conditions") or [], new.get("conditions") or []
    told = [_turned(condition) for condition in after if _tells(find(before, condition["type"]), condition)]
    return [*_unique(told), *_scaled(old, new)]


def _tells(before: Condition | None, now: Condition) -> bool:
    if now["type"] not in HEADLINES + TROUBLES:
        return False
    if _bad(now):
        return before is None or not _bad(before) or before.get("reason") != now["reason"]
    if now["status"] == "Unknown" or (before is not None and before["status"] == now["status"]):
        return False  # on its way, or as it was
    if now["type"] in HEADLINES:
        return bool(now["status"] == "True")
    return before is not None and _bad(before)


def _bad(condition: Condition) -> bool:
    if condition["type"] == "Running":
        return False  # that it no longer runs is told by what it came to
    return bool(condition["status"] == ("True" if condition["type"] == "Stalled" else "False"))


def _turned(condition: Condition) -> Told:
    kind: Literal["Normal", "Warning"] = "Warning" if _bad(condition) else "Normal"
    return Told(kind, condition["reason"], condition["message"] or condition["reason"], condition["type"])


def _unique(told: Iterable[Told]) -> list[Told]:
    """The same trouble often shows in several conditions; once is enough."""
    seen: dict[tuple[str, str, str], Told] = {}
    for one in told:
        seen.setdefault((one.type, one.reason, one.note), one)
    return list(seen.values())


def _scaled(old: dict[str, Any], new: dict[str, Any]) -> list[Told]:
    was = (old.get("scaling") or {}).get("history") or []
    now = (new.get("scaling") or {}).get("history") or []
    if not now or now[-1] in was:
        return []
    last = now[-1]
    return [Told("Normal", "Scaled", f"replicas {last['from']} → {last['to']}: {last['reason']}", "Scale")]
