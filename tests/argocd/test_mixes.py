"""health.lua over every mix of what may be there, stale or missing: thousands of objects, one rule for each answer."""

from itertools import product
from typing import Any, NamedTuple

import pytest

from argocd.lua import Health, compiled

SUMMARY = {"ModelDeployment": "Ready", "TrainingJob": "Succeeded"}
WAITING = ("Progressing", "Waiting for the operator")
STALE = ("Progressing", "Waiting for the operator to see the latest change")
GENERATION = 3
OBSERVED = {"current": GENERATION, "stale": GENERATION - 1, "absent": None}


class Mix(NamedTuple):
    deleted: bool
    generation: bool
    """Whether the object has one: what a client has not sent yet has none."""
    status: str
    """What there is of it: nothing, conditions."""
    observed: str
    summary: str
    """Status of the condition that counts; empty when it is missing."""
    of: str
    """The generation that this condition is about."""
    stalled: str
    stalled_of: str
    message: bool
    others: bool
    """Conditions that must not matter, all of them bad, before and after."""


MIXES = [
    Mix(*values)
    for values in product(
        (False, True),
        (False, True),
        ("", "empty", "null", "none", "some"),
        OBSERVED,
        ("", "True", "False", "Unknown"),
        OBSERVED,
        ("", "True", "False"),
        OBSERVED,
        (False, True),
        (False, True),
    )
]


def condition(type: str, status: str, reason: str, message: str, of: str) -> dict[str, Any]:
    found = {"type": type, "status": status, "reason": reason, "message": message, "observedGeneration": OBSERVED[of]}
    return {key: value for key, value in found.items() if value is not None}


def built(mix: Mix, summary: str) -> dict[str, Any]:
    meta = {"name": "a"} | ({"generation": GENERATION} if mix.generation else {})
    if mix.deleted:
        meta["deletionTimestamp"] = "2026-11-23T10:05:00Z"
    conditions = []
    if mix.others:
        conditions.append(condition("Progressing", "False", "Broken", "x", "stale"))
        conditions.append(condition("CapacityAvailable", "False", "InsufficientCapacity", "x", "current"))
    if mix.summary:
        conditions.append(condition(summary, mix.summary, "Why", "words" if mix.message else "", mix.of))
    if mix.stalled:
        conditions.append(condition("Stalled", mix.stalled, "Stuck", "x", mix.stalled_of))
    if mix.others:
        conditions.append(condition("ScalingActive", "False", "NoData", "x", "stale"))
    status: dict[str, Any] = {}
    if OBSERVED[mix.observed] is not None:
        status["observedGeneration"] = OBSERVED[mix.observed]
    if mix.status in ("none", "some"):
        status["conditions"] = conditions if mix.status == "some" else []
    return {"metadata": meta} | ({"status": None if mix.status == "null" else status} if mix.status else {})


def expected(mix: Mix) -> tuple[str, str]:
    if mix.deleted:
        return "Progressing", "Pending deletion"
    if mix.status != "some" or not mix.summary:
        return WAITING
    if mix.generation and "stale" in (mix.observed, mix.of):
        return STALE
    stuck = mix.stalled == "True" and not (mix.generation and mix.stalled_of == "stale")
    health = {"True": "Healthy", "False": "Degraded", "Unknown": "Degraded" if stuck else "Progressing"}
    return health[mix.summary], "Why: words" if mix.message else "Why"


@pytest.mark.parametrize("kind", SUMMARY)
def test_every_mix(kind: str) -> None:
    health: Health = compiled(kind)
    assert len(MIXES) > 10_000
    wrong = [
        (mix, got, expected(mix))
        for mix in MIXES
        if (got := tuple(health(built(mix, SUMMARY[kind])).values())) != expected(mix)
    ]
    assert wrong[:3] == []


@pytest.mark.parametrize("kind", SUMMARY)
def test_never_healthy_on_what_an_older_generation_said(kind: str) -> None:
    health = compiled(kind)
    for mix in MIXES:
        if mix.generation and "stale" in (mix.observed, mix.of):
            assert health(built(mix, SUMMARY[kind]))["status"] == "Progressing", mix
