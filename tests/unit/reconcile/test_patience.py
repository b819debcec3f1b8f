"""Progress is told soon where little is on its way, seldom in a storm; what turned is never kept back."""

from typing import Any

import pytest

from moorage.kube.kinds import Key
from moorage.reconcile.patience import LEAST, LOOK_AGAIN, MOST, MOST_AFTER, Patience
from moorage.reconcile.statuses import can_wait


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def key(number: int) -> Key:
    return Key("ModelDeployment", "ns", f"m{number}")


def test_one_that_is_alone_waits_for_moments() -> None:
    clock = Clock()
    patience = Patience(clock)
    assert patience.left(key(0)) == LEAST
    clock.now = LEAST
    assert patience.left(key(0)) == 0
    patience.told(key(0))
    assert patience.left(key(0)) == LEAST, "and then again"


def test_in_a_storm_all_wait_longer_but_not_for_ever() -> None:
    patience = Patience(Clock())
    for number in range(100):
        patience.left(key(number))
    assert patience.left(key(0)) == pytest.approx(50)
    for number in range(10_000):
        patience.left(key(number))
    assert patience.left(key(0)) == MOST


def test_who_is_left_alone_need_not_wait_any_more() -> None:
    patience = Patience(clock := Clock())
    for number in range(1000):
        patience.left(key(number))
    for number in range(1, 1000):
        patience.told(key(number))
    clock.now = LOOK_AGAIN
    assert patience.left(key(0)) == 0


def test_what_follows_the_end_waits_less() -> None:
    patience = Patience(Clock())
    assert patience.left(key(0), ended=True) == LEAST
    for number in range(100):
        patience.left(key(number))
    assert patience.left(key(0), ended=True) == MOST_AFTER


def status(**conditions: tuple[str, str]) -> dict[str, Any]:
    found = [
        {"type": type_, "status": value, "reason": reason, "message": f"{reason}, in words"}
        for type_, (value, reason) in conditions.items()
    ]
    return {"observedGeneration": 1, "desiredReplicas": 2, "conditions": found}


ON_ITS_WAY = {"Ready": ("Unknown", "RollingOut"), "CapacityAvailable": ("Unknown", "x"), "Stalled": ("False", "No")}


@pytest.mark.parametrize(
    ("turned", "waits"),
    [
        ({}, True),
        ({"Ready": ("Unknown", "FetchingModel")}, True),
        ({"CapacityAvailable": ("True", "Scheduled")}, True),
        ({"Ready": ("True", "AllReplicasReady")}, False),
        ({"Ready": ("False", "CrashLoop")}, False),
        ({"CapacityAvailable": ("False", "InsufficientCapacity")}, False),
        ({"Stalled": ("True", "UnsafeModel")}, False),
        ({"ModelLoaded": ("Unknown", "new")}, False),
    ],
)
def test_what_turned_cannot_wait(turned: dict[str, tuple[str, str]], waits: bool) -> None:
    assert can_wait(status(**ON_ITS_WAY), status(**{**ON_ITS_WAY, **turned})) is waits


@pytest.mark.parametrize("field", ["observedGeneration", "desiredReplicas", "lastFailure"])
def test_a_new_wish_and_a_new_failure_cannot_wait(field: str) -> None:
    assert not can_wait(status(**ON_ITS_WAY), {**status(**ON_ITS_WAY), field: 7})


def test_counts_can() -> None:
    assert can_wait(status(**ON_ITS_WAY), {**status(**ON_ITS_WAY), "readyReplicas": 1})


def test_those_of_pods_that_leave_after_all_is_ready_can() -> None:
    ready = status(**{**ON_ITS_WAY, "Ready": ("True", "AllReplicasReady")})
    assert can_wait(ready, {**ready, "replicas": 1})


def test_trouble_that_ends_or_changes_cannot() -> None:
    bad = {**ON_ITS_WAY, "CapacityAvailable": ("False", "QuotaExceeded")}
    assert not can_wait(status(**bad), status(**ON_ITS_WAY))
    assert not can_wait(status(**bad), status(**{**bad, "CapacityAvailable": ("False", "InsufficientCapacity")}))
