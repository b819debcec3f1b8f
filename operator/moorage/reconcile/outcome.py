"""What one reconcile of a resource came to: the status it should have, and when to look again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from moorage.api.facts import InvalidSpec, Problem
from moorage.kube.errors import ApiError, Forbidden, Invalid, UnknownKind

SOON = 2.0
"""When to come again for what is on its way out and may hang there."""

TAKEN_LOOK = 30.0
"""How often a name that somebody else has is tried again."""


@dataclass(frozen=True, slots=True)
class Outcome:
    status: dict[str, Any]
    again: float | None = None
    """Seconds until the next look, though nothing may have changed that a watch shows."""
    failed: ApiError | None = None
    """What the status already tells of, and what is worth trying again with growing patience."""


def problem_of(error: InvalidSpec | ApiError) -> Problem:
    """In words for a status. Errors of the moment are not shown: they are raised and tried again."""
    if isinstance(error, InvalidSpec):
        return Problem(error.reason, error.message)
    if isinstance(error, Invalid):
        return Problem("Rejected", f"the API server refuses what this resource asks for: {error.message}")
    if isinstance(error, Forbidden):
        return Problem("Forbidden", error.message, final=False)
    if isinstance(error, UnknownKind):
        return Problem("UnknownKind", f"a kind this resource needs is not installed: {error.message}", final=False)
    raise error
