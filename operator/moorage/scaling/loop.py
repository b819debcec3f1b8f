"""One loop for the load of all deployments: ask Prometheus, decide, hand the decision on.

The number of queries does not grow with the number of deployments: one for each kind of metric and each distinct
stabilisation window; only a query of the user's own is asked for its deployment alone. Nothing is remembered from one
round to the next but how often answers failed in a row, so a restart changes no decision. An answer that is missing
holds back those that asked for it and nobody else.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import structlog

from moorage import telemetry
from moorage.api.facts import Decision
from moorage.api.modeldeployment import Metric, Scaling
from moorage.kube.kinds import Key
from moorage.scaling import queries
from moorage.scaling.policy import Bounds, Demand, decide, measured
from moorage.scaling.prometheus import Prometheus, PrometheusError, Sample

log = structlog.get_logger()

PATIENCE = 3
"""Rounds in a row that an answer may fail before a condition says so. Nothing scales down meanwhile either way."""

ROUND = 10.0
"""Seconds a round waits for queries of users. Slower ones go on beside the next round and hold up nobody else."""

FAULTS = {"BadQuery", "AmbiguousQuery"}
"""Of the query, not of the moment: said at once."""

AT_ONCE = 8


class Target(Protocol):
    """One deployment that scales by load, as it stands."""

    @property
    def key(self) -> Key: ...

    @property
    def uid(self) -> str: ...

    @property
    def scaling(self) -> Scaling: ...

    @property
    def current(self) -> int: ...

    @property
    def ready(self) -> int: ...


Values = dict[tuple[str, str], float]


@dataclass(slots=True)
class Load:
    """What Prometheus says of Concurrency, for everybody. `failed`, `blind`: why it says nothing, or of a window."""

    now: Values = field(default_factory=dict)
    reporting: Values = field(default_factory=dict)
    peak: dict[int, Values] = field(default_factory=dict)
    samples: dict[int, Values] = field(default_factory=dict)
    failed: tuple[str, str] | None = None
    blind: dict[int, tuple[str, str]] = field(default_factory=dict)


class ScalingLoop:
    def __init__(
        self,
        prometheus: Prometheus,
        targets: Callable[[], Iterable[Target]],
        publish: Callable[[Key, str, Decision], None],
        *,
        rate_window: int,
        fresh: int,
    ) -> None:
        self._prometheus = prometheus
        self._targets, self._publish = targets, publish
        self._rate_window, self._fresh = rate_window, fresh
        self._failures: dict[Key, int] = {}
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._under_way: dict[Key, asyncio.Task[None]] = {}

    async def run(self, interval: float) -> None:
        try:
            while True:
                with telemetry.SCALING_TICK.time():
                    await self.tick()
                await asyncio.sleep(interval)
        finally:
            for task in self._under_way.values():
                task.cancel()

    async def tick(self) -> None:
        targets = list(self._targets())
        known = {target.key for target in targets}
        self._failures = {key: count for key, count in self._failures.items() if key in known}
        if not targets:
            return
        load = await self._concurrency([t for t in targets if _concurrency_of(t.scaling)])
        for target in targets:
            if target.key not in self._under_way:
                self._under_way[target.key] = asyncio.create_task(self._safely(target, load))
        if self._under_way:
            await asyncio.wait(self._under_way.values(), timeout=ROUND)
        self._under_way = {key: task for key, task in self._under_way.items() if not task.done()}

    async def _safely(self, target: Target, load: Load) -> None:
        """What goes wrong with one goes wrong with no other."""
        try:
            await self._decide(target, load)
        except Exception:
            log.exception("no decision", namespace=target.key.namespace, name=target.key.name)

    async def _decide(self, target: Target, load: Load) -> None:
        bounds, window = _bounds(target.scaling), target.scaling.scale_down.stabilization_seconds
        demands = [
            self._from_load(target, metric, load, window)
            if metric.type == "Concurrency"
            else await self._from_user(target, metric, window)
            for metric in target.scaling.metrics
        ]
        decision = decide(bounds, target.current, demands)
        if not self._worth_telling(target, decision, demands):
            return
        direction = (
            "up" if decision.replicas > target.current else "down" if decision.replicas < target.current else "hold"
        )
        telemetry.SCALING_DECISIONS.labels(direction).inc()
        self._publish(target.key, target.uid, decision)

    def _worth_telling(self, target: Target, decision: Decision, demands: Sequence[Demand]) -> bool:
        """A blip of Prometheus is not, but for replicas that what it did answer asks for."""
        failed = next((d.problem for d in demands if d.failed and d.problem and d.problem[0] not in FAULTS), None)
        if failed is None:
            self._failures.pop(target.key, None)
            return True
        count = self._failures[target.key] = self._failures.get(target.key, 0) + 1
        return count >= PATIENCE or decision.replicas > target.current

    async def _concurrency(self, targets: Sequence[Target]) -> Load:
        load = Load()
        if not targets:
            return load
        query = queries.concurrency(self._rate_window)
        try:
            load.now = _by_deployment(await self._prometheus.instant(query))
            load.reporting = _by_deployment(await self._prometheus.instant(queries.reporting(self._fresh)))
        except PrometheusError as error:
            log.warning("no load data", reason=error.reason, error=error.message)
            return Load(failed=(error.reason, error.message))
        windows = {t.scaling.scale_down.stabilization_seconds for t in targets} - {0}
        await asyncio.gather(*(self._window(load, query, window) for window in windows))
        return load

    async def _window(self, load: Load, query: str, window: int) -> None:
        try:
            async with self._turns:
                load.peak[window] = _by_deployment(await self._prometheus.instant(queries.peak(query, window)))
                load.samples[window] = _by_deployment(await self._prometheus.instant(queries.samples(query, window)))
        except PrometheusError as error:
            log.warning("no load data of the window", window=window, reason=error.reason, error=error.message)
            load.blind[window] = (error.reason, error.message)

    def _from_load(self, target: Target, metric: Metric, load: Load, window: int) -> Demand:
        goal, where = float(metric.target), (target.key.namespace, target.key.name)
        if load.failed is not None:
            return Demand(metric.type, goal, None, None, window, load.failed, failed=True)
        found = measured(
            metric.type,
            goal,
            now=load.now.get(where),
            peak=load.peak.get(window, {}).get(where),
            window=window,
            samples=load.samples.get(window, {}).get(where),
            step=queries.STEP,
            reporting=int(load.reporting.get(where, 0)),
            ready=target.ready,
        )
        if window in load.blind and found.problem is None:
            return replace(found, peak=None, problem=load.blind[window], failed=True)
        return found

    async def _from_user(self, target: Target, metric: Metric, window: int) -> Demand:
        """A query of the user's. Its window is asked for only when it could take replicas away."""
        query, goal = metric.query or "", float(metric.target)
        now = peak = samples = None
        try:
            async with self._turns:
                now = _single(await self._prometheus.instant(query))
                if now is not None and window and Demand("", goal, now).need(now) < target.current:
                    peak = _single(await self._prometheus.instant(queries.peak(query, window)))
                    samples = _single(await self._prometheus.instant(queries.samples(query, window)))
        except PrometheusError as error:
            return Demand(metric.type, goal, now, None, window, (error.reason, error.message), failed=True)
        return measured(
            metric.type,
            goal,
            now=now,
            peak=peak,
            window=window,
            samples=samples,
            step=queries.STEP,
            reporting=None,
            ready=target.ready,
        )


def _concurrency_of(scaling: Scaling) -> bool:
    return any(metric.type == "Concurrency" for metric in scaling.metrics)


def _bounds(scaling: Scaling) -> Bounds:
    return Bounds(scaling.min_replicas, scaling.max_replicas)


def _by_deployment(samples: Iterable[Sample]) -> Values:
    return {
        (sample.labels.get("namespace", ""), sample.labels.get(queries.DEPLOYMENT, "")): sample.value
        for sample in samples
    }


def _single(samples: Sequence[Sample]) -> float | None:
    if len(samples) > 1:
        raise PrometheusError(
            "AmbiguousQuery", f"the query gives {len(samples)} values: write sum(…) around it to get one"
        )
    # NaN and infinity are what 0/0 and 1/0 give: nothing to go by.
    return samples[0].value if samples and math.isfinite(samples[0].value) else None
