"""One round of the scaling loop: how many questions, what is decided, and what is not when answers are missing."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from moorage.api.facts import Decision
from moorage.api.modeldeployment import Scaling
from moorage.kube.kinds import Key
from moorage.scaling import loop as scaling_loop
from moorage.scaling import queries
from moorage.scaling.loop import PATIENCE, ScalingLoop
from moorage.scaling.prometheus import PrometheusError, Sample

RATE, FRESH = 30, 60


@dataclass
class Target:
    key: Key
    scaling: Scaling
    uid: str
    current: int = 1
    ready: int = 1


class Prometheus:
    """Answers by exact query text; what it does not know has no data."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Sample]] = {}
        self.asked: list[str] = []
        self.down = False
        self.refuses: set[str] = set()
        self.hangs: set[str] = set()

    async def instant(self, query: str) -> list[Sample]:
        self.asked.append(query)
        if query in self.hangs:
            await asyncio.Event().wait()
        if self.down or query in self.refuses:
            raise PrometheusError("PrometheusUnreachable", "Prometheus at http://p is out of reach")
        return self.answers.get(query, [])

    def load(self, name: str, now: float, peak: float | None = None, *, window: int = 300, pods: int = 1) -> None:
        """Concurrency of one deployment, with a window that is known in full."""
        query = queries.concurrency(RATE)
        for text, value in (
            (query, now),
            (queries.reporting(FRESH), pods),
            (queries.peak(query, window), now if peak is None else peak),
            (queries.samples(query, window), window / queries.STEP),
        ):
            self.answers.setdefault(text, []).append(Sample({"namespace": "ns", queries.DEPLOYMENT: name}, value))


def scaling(*, window: int = 300, **metric: object) -> Scaling:
    return Scaling.model_validate(
        {
            "maxReplicas": 10,
            "metrics": [{"type": "Concurrency", "target": "8", **metric}],
            "scaleDown": {"stabilizationSeconds": window},
        }
    )


def target(name: str = "a", current: int = 1, ready: int = 1, **kw: object) -> Target:
    return Target(Key("ModelDeployment", "ns", name), scaling(**kw), "u", current, ready)  # type: ignore[arg-type]


def loop(prometheus: Prometheus, *targets: Target) -> tuple[Callable[[], object], dict[str, Decision]]:
    decided: dict[str, Decision] = {}

    def publish(key: Key, _uid: str, decision: Decision) -> None:
        decided[key.name] = decision

    running = ScalingLoop(prometheus, lambda: targets, publish, rate_window=RATE, fresh=FRESH)  # type: ignore[arg-type]
    return running.tick, decided


async def test_load_brings_replicas() -> None:
    prometheus = Prometheus()
    prometheus.load("a", 13)
    tick, decided = loop(prometheus, target())
    await tick()
    assert decided["a"].replicas == 2
    assert decided["a"].active[0] == "True"


async def test_a_thousand_deployments_are_as_many_questions_as_one() -> None:
    prometheus = Prometheus()
    tick, decided = loop(prometheus, *(target(f"a{i}") for i in range(1000)))
    await tick()
    assert len(prometheus.asked) == 4
    assert len(decided) == 1000


async def test_each_window_is_asked_for_once() -> None:
    prometheus = Prometheus()
    tick, _ = loop(
        prometheus, target("a", window=60), target("b", window=60), target("c", window=300), target("d", window=0)
    )
    await tick()
    assert len(prometheus.asked) == 2 + 2 * 2


async def test_nobody_to_scale_is_nothing_to_ask() -> None:
    prometheus = Prometheus()
    tick, _ = loop(prometheus)
    await tick()
    assert prometheus.asked == []


async def test_replicas_go_when_the_whole_window_allows_it() -> None:
    prometheus = Prometheus()
    prometheus.load("a", 3, peak=30, pods=5)
    tick, decided = loop(prometheus, target(current=5, ready=5))
    await tick()
    assert decided["a"].replicas == 4  # what 30 needed within the window


async def test_missing_data_never_takes_replicas_away() -> None:
    tick, decided = loop(Prometheus(), target(current=5, ready=5))
    await tick()
    assert decided["a"].replicas == 5
    assert decided["a"].active[:2] == ("False", "NoData")


async def test_a_blip_of_prometheus_changes_nothing_and_an_outage_is_told() -> None:
    prometheus = Prometheus()
    prometheus.down = True
    tick, decided = loop(prometheus, target(current=5))
    for _ in range(PATIENCE - 1):
        await tick()
    assert decided == {}
    await tick()
    assert decided["a"].replicas == 5
    assert decided["a"].active[:2] == ("False", "PrometheusUnreachable")


async def test_a_query_of_the_users_decides_for_its_deployment_alone() -> None:
    prometheus = Prometheus()
    prometheus.answers["sum(queue)"] = [Sample({}, 30)]
    prometheus.load("b", 1)
    tick, decided = loop(prometheus, target("a", type="Prometheus", query="sum(queue)", target="10"), target("b"))
    await tick()
    assert (decided["a"].replicas, decided["b"].replicas) == (3, 1)
    # Its window is asked for only when it could take replicas away.
    assert queries.peak("sum(queue)", 300) not in prometheus.asked


async def test_a_users_query_that_gives_no_number_is_no_data() -> None:
    prometheus = Prometheus()
    prometheus.answers["a / b"] = [Sample({}, float("nan"))]
    tick, decided = loop(prometheus, target("a", current=3, type="Prometheus", query="a / b"))
    await tick()
    assert decided["a"].replicas == 3
    assert decided["a"].active[:2] == ("False", "NoData")


async def test_a_users_query_with_many_values_says_what_to_write() -> None:
    prometheus = Prometheus()
    prometheus.answers["queue"] = [Sample({"pod": "a"}, 30), Sample({"pod": "b"}, 1)]
    tick, decided = loop(prometheus, target("a", type="Prometheus", query="queue"))
    await tick()
    assert decided["a"].active[1] == "AmbiguousQuery"
    assert "sum(" in decided["a"].active[2]


def both(name: str, current: int = 1) -> Target:
    """Scales by its Concurrency and by a query of the user's."""
    metrics = [
        {"type": "Concurrency", "target": "8"},
        {"type": "Prometheus", "query": "sum(queue)", "target": "10"},
    ]
    wish = Scaling.model_validate({"maxReplicas": 10, "metrics": metrics})
    return Target(Key("ModelDeployment", "ns", name), wish, "u", current, current)


async def test_a_kind_of_query_that_fails_holds_up_no_other() -> None:
    prometheus = Prometheus()
    prometheus.answers["sum(queue)"] = [Sample({}, 30)]
    prometheus.refuses.add(queries.concurrency(RATE))
    users = target("b", type="Prometheus", query="sum(queue)", target="10")
    tick, decided = loop(prometheus, target("a", current=4, ready=4), users, both("c"))
    await tick()
    assert "a" not in decided, "a blip is no news"
    assert (decided["b"].replicas, decided["b"].active[0]) == (3, "True")
    assert decided["c"].replicas == 3, "what one metric asks for is not kept back by the other"
    for _ in range(PATIENCE - 1):
        await tick()
    assert decided["a"].active[:2] == ("False", "PrometheusUnreachable")
    assert decided["a"].replicas == 4


async def test_a_users_query_has_the_same_patience() -> None:
    prometheus = Prometheus()
    prometheus.refuses.add("sum(queue)")
    tick, decided = loop(prometheus, target("a", current=3, type="Prometheus", query="sum(queue)"))
    for _ in range(PATIENCE - 1):
        await tick()
    assert decided == {}
    await tick()
    assert decided["a"].active[:2] == ("False", "PrometheusUnreachable")
    prometheus.refuses.clear()
    prometheus.answers["sum(queue)"] = [Sample({}, 40)]
    await tick()
    assert decided["a"].active[0] == "True"


async def test_a_window_that_fails_takes_nothing_away_and_spares_other_windows() -> None:
    prometheus = Prometheus()
    prometheus.load("a", 3, pods=5, window=60)
    prometheus.load("b", 3, pods=5, window=300)
    for text in (queries.concurrency(RATE), queries.reporting(FRESH)):
        del prometheus.answers[text][2:]
    prometheus.refuses.add(queries.peak(queries.concurrency(RATE), 60))
    tick, decided = loop(prometheus, target("a", 5, 5, window=60), target("b", 5, 5, window=300))
    for _ in range(PATIENCE):
        await tick()
    assert decided["b"].replicas == 1
    assert (decided["a"].replicas, decided["a"].active[1]) == (5, "PrometheusUnreachable")


async def test_a_query_that_hangs_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling_loop, "ROUND", 0.05)
    prometheus = Prometheus()
    prometheus.hangs.add("slow")
    prometheus.load("b", 13)
    tick, decided = loop(prometheus, target("a", type="Prometheus", query="slow"), target("b"))
    await tick()
    await tick()
    assert decided["b"].replicas == 2
    assert prometheus.asked.count("slow") == 1, "it is not asked again while it is under way"


async def test_a_decision_that_breaks_breaks_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    prometheus = Prometheus()
    prometheus.load("b", 13)
    decide = scaling_loop.decide

    def broken(bounds: Any, current: int, demands: Any) -> Decision:
        if current == 7:
            raise OverflowError
        return decide(bounds, current, demands)

    monkeypatch.setattr(scaling_loop, "decide", broken)
    tick, decided = loop(prometheus, target("a", current=7), target("b"))
    await tick()
    assert decided["b"].replicas == 2
