"""Decisions: the largest demand, at once up, down after the window, never on what is not known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.scaling.policy import Bounds, Demand, decide, hold, measured

BOUNDS = Bounds(1, 10)


def load(now: float | None, peak: float | None = None, *, target: float = 8, metric: str = "Concurrency") -> Demand:
    problem = ("NoData", "nothing there") if now is None else None
    return Demand(metric, target, now, peak, 300, problem)


@pytest.mark.parametrize(
    ("now", "peak", "current", "replicas", "reason"),
    [
        (13, 13, 1, 2, "demand 13 / target 8 → 2"),
        (8, 8, 1, 1, "demand 8 / target 8 → 1"),
        (8.003, 8.003, 1, 1, "demand 8 / target 8 → 1"),
        (8.2, 8.2, 1, 2, "demand 8.2 / target 8 → 2"),
        (3, 29, 4, 4, "demand 3 / target 8 → 1, held at 4: demand was 29 in the last 300 s"),
        (3, 12, 4, 2, "demand 3 / target 8 → 1, held at 2: demand was 12 in the last 300 s"),
        (3, 5, 4, 1, "demand 3 / target 8 → 1"),
        (3, None, 4, 4, "demand 3 / target 8 → 1, held at 4: the last 300 s are not all known yet"),
        (200, 200, 4, 10, "demand 200 / target 8 → 25, limited by maxReplicas 10"),
        (0, 0, 3, 1, "demand 0 / target 8 → 0, raised to minReplicas 1"),
    ],
)
def test_one_metric(now: float, peak: float | None, current: int, replicas: int, reason: str) -> None:
    decision = decide(BOUNDS, current, [load(now, peak)])
    assert (decision.replicas, decision.reason) == (replicas, reason)
    assert decision.active[:2] == ("True", "Following")


def test_the_largest_demand_wins_and_is_named() -> None:
    decision = decide(BOUNDS, 1, [load(9, 9), load(50, 50, target=10, metric="Prometheus")])
    assert (decision.replicas, decision.reason) == (5, "Prometheus: demand 50 / target 10 → 5")


def test_a_metric_without_data_never_takes_replicas_away() -> None:
    decision = decide(BOUNDS, 4, [load(1, 1), load(None, metric="Prometheus")])
    assert decision.replicas == 4
    assert "held at 4" in decision.reason
    assert decision.active == ("False", "NoData", "nothing there; replicas are added where needed but not taken away")


def test_a_metric_without_data_does_not_keep_others_from_adding() -> None:
    assert decide(BOUNDS, 4, [load(60, 60), load(None, metric="Prometheus")]).replicas == 8


def test_without_any_data_nothing_moves_but_bounds_hold() -> None:
    assert decide(BOUNDS, 4, [load(None)]).replicas == 4
    assert decide(Bounds(1, 3), 4, [load(None)]).replicas == 3
    assert decide(Bounds(6, 9), 4, [load(None)]).replicas == 6
    assert decide(BOUNDS, 4, [load(None)]).active[:2] == ("False", "NoData")


def test_hold_before_there_is_a_deployment_starts_at_the_minimum() -> None:
    decision = hold(Bounds(2, 5), None, "Measuring", "waiting", status="Unknown")
    assert (decision.replicas, decision.active) == (2, ("Unknown", "Measuring", "waiting"))


def test_without_a_window_it_goes_down_at_once() -> None:
    demand = measured(
        "Concurrency", 8, now=3, peak=None, window=0, samples=None, step=15, reporting=4, ready=4
    )  # fmt: skip
    assert decide(BOUNDS, 4, [demand]).replicas == 1


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"now": None}, "NoData"),
        ({"now": float("nan")}, "NoData"),
        ({"reporting": 2}, "PartialData"),
        ({"samples": 10}, None),
        ({"samples": None}, None),
        ({"peak": None}, None),
    ],
)
def test_doubtful_data_never_scales_down(changes: dict, problem: str | None) -> None:
    sure = {"now": 3.0, "peak": 5.0, "window": 300, "samples": 20, "step": 15, "reporting": 4, "ready": 4}
    assert decide(BOUNDS, 4, [measured("Concurrency", 8, **sure)]).replicas == 1
    doubtful = measured("Concurrency", 8, **(sure | changes))
    assert decide(BOUNDS, 4, [doubtful]).replicas == 4
    assert (doubtful.problem[0] if doubtful.problem else None) == problem


def test_one_lost_scrape_does_not_stop_scale_down() -> None:
    demand = measured("Concurrency", 8, now=3, peak=5, window=300, samples=18, step=15, reporting=4, ready=4)
    assert decide(BOUNDS, 4, [demand]).replicas == 1


@pytest.mark.parametrize(("now", "replicas"), [(1e300, 10), (-1e300, 1)])
def test_a_quotient_beyond_all_numbers_is_still_within_the_bounds(now: float, replicas: int) -> None:
    assert decide(BOUNDS, 1, [load(now, now, target=1e-50)]).replicas == replicas


amounts = st.floats(0, 1e6, allow_nan=False)
demands = st.builds(
    Demand,
    metric=st.just("Concurrency"),
    target=st.floats(0.01, 1e4),
    now=st.none() | amounts,
    peak=st.none() | amounts,
    window=st.just(300),
    problem=st.none() | st.just(("NoData", "x")),
)


@given(st.integers(1, 50), st.integers(0, 50), st.integers(0, 200), st.lists(demands, max_size=4))
def test_bounds_always_hold(minimum: int, width: int, current: int, found: list[Demand]) -> None:
    bounds = Bounds(minimum, minimum + width)
    assert bounds.minimum <= decide(bounds, current, found).replicas <= bounds.maximum


@given(st.integers(1, 50), st.lists(demands, min_size=1, max_size=4))
def test_nothing_is_taken_away_unless_every_metric_knows_its_window(current: int, found: list[Demand]) -> None:
    decision = decide(Bounds(1, 100), current, found)
    if any(demand.now is None or demand.peak is None for demand in found):
        assert decision.replicas >= min(current, 100)


@given(st.integers(1, 50), demands.filter(lambda d: d.now is not None), amounts)
def test_more_load_never_means_fewer_replicas(current: int, demand: Demand, more: float) -> None:
    low = decide(Bounds(1, 10**9), current, [demand])
    high = decide(
        Bounds(1, 10**9), current, [Demand(demand.metric, demand.target, (demand.now or 0) + more, demand.peak, 300)]
    )
    assert high.replicas >= low.replicas
