"""One way to set a condition. The time comes from the caller: nothing here has a clock."""

from collections.abc import Iterable, Mapping
from typing import Any

Condition = dict[str, Any]

_HEAD, _TAIL = 3000, 1000


def clip(words: str) -> str:
    """Words of any length as words that help. An API server repeats a megabyte that it refuses, and says why at the
    end; whatever is longer than the schema allows would make it refuse the whole status."""
    return words if len(words) <= _HEAD + _TAIL else f"{words[:_HEAD]} … {words[-_TAIL:]}"


def set_condition(
    conditions: Iterable[Condition], *, type: str, status: str, reason: str, message: str, generation: int, now: str
) -> list[Condition]:
    """The list with one condition set; the others and their order stay.

    lastTransitionTime moves only when the status changes: it answers "since when", not "when last looked at".
    """
    fresh = {
        "type": type,
        "status": status,
        "reason": reason,
        "message": clip(message),
        "observedGeneration": generation,
        "lastTransitionTime": now,
    }
    result: list[Condition] = []
    found = False
    for old in conditions:
        if old.get("type") != type:
            result.append(old)
            continue
        found = True
        if old.get("status") == status and old.get("lastTransitionTime"):
            fresh["lastTransitionTime"] = old["lastTransitionTime"]
        result.append(fresh)
    return result if found else [*result, fresh]


def find(conditions: Iterable[Condition] | None, type: str) -> Condition | None:
    return next((c for c in conditions or () if c.get("type") == type), None)


def renewed(
    old: Iterable[Condition] | None, wanted: Mapping[str, tuple[str, str, str]], *, generation: int, now: str
) -> list[Condition]:
    """The wanted ones alone, in their order, each given as status, reason and message."""
    known = list(old or ())
    conditions: list[Condition] = []
    for type, (status, reason, message) in wanted.items():
        before = find(known, type)
        conditions += set_condition(
            [before] if before else [],
            type=type,
            status=status,
            reason=reason,
            message=message,
            generation=generation,
            now=now,
        )
    return conditions
