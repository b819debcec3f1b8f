"""One loop for the load of all deployments: ask Prometheus, decide, hand the decision on.

The number of queries does not grow with the number of deployments: one for each kind of metric and each distinct
stabilisation window; only a query of the user's own is asked for its deployment alone. Nothing is remembered from one
round to the next but how often Prometheus failed in a row, so a restart changes no decision.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from moorage import telemetry
from moorage.api.facts import Decision
from moorage.api.modeldeployment import Metric, Scaling
from moorage.kube.kinds import Key
from moorage.scaling import queries
from moorage.scaling.policy import Bounds, Demand, decide, hold, measured
from moorage.scaling.prometheus import Prometheus, PrometheusError, Sample

log = structlog.get_logger()

PATIENCE = 3
"""Rounds in a row that Prometheus may fail before a condition says so. Nothing scales down meanwhile either way."""

USERS_AT_ONCE = 8


class Target(Protocol):
    """One deployment that scales by load, as it stands."""

    @property
    def key(self) -> Key: ...

    @property
    def scaling(self) -> Scaling: ...

    @property
    def current(self) -> int: ...

    @property
    def ready(self) -> int: ...


Values = dict[tuple[str, str], float]


@dataclass(slots=True)
class Load:
    """What Prometheus says of Concurrency, for everybody."""

    now: Values = field(default_factory=dict)
    reporting: Values = field(default_factory=dict)
    peak: dict[int, Values] = field(default_factory=dict)
    samples: dict[int, Values] = field(default_factory=dict)


class ScalingLoop:
    def __init__(
        self,
        prometheus: Prometheus,
        targets: Callable[[], Iterable[Target]],
        publish: Callable[[Key, Decision], None],
        *,
        rate_window: int,
        fresh: int,
    ) -> None:
        self._prometheus = prometheus
        self._targets, self._publish = targets, publish
        self._rate_window, self._fresh = rate_window, fresh
        self._failures = 0
        self._users = asyncio.Semaphore(USERS_AT_ONCE)

    async def run(self, interval: float) -> None:
        while True:
            with telemetry.SCALING_TICK.time():
                await self.tick()
            await asyncio.sleep(interval)

    async def tick(self) -> None:
        targets = list(self._targets())
        if not targets:
            return
        try:
            load = await self._concurrency([t for t in targets if _concurrency_of(t.scaling)])
        except PrometheusError as error:
            self._failures += 1
            if self._failures >= PATIENCE:
                for target in targets:
                    decision = hold(_bounds(target.scaling), target.current, error.reason, error.message)
                    self._publish(target.key, decision)
            log.warning("no load data", reason=error.reason, error=error.message, failures=self._failures)
            return
        self._failures = 0
        await asyncio.gather(*(self._decide(target, load) for target in targets))

    async def _decide(self, target: Target, load: Load) -> None:
        bounds, window = _bounds(target.scaling), target.scaling.scale_down.stabilization_seconds
        demands = [
            self._from_load(target, metric, load, window)
            if metric.type == "Concurrency"
            else await self._from_user(target, metric, window)
            for metric in target.scaling.metrics
        ]
        decision = decide(bounds, target.current, demands)
        direction = (
            "up" if decision.replicas > target.current else "down" if decision.replicas < target.current else "hold"
        )
        telemetry.SCALING_DECISIONS.labels(direction).inc()
        self._publish(target.key, decision)

    async def _concurrency(self, targets: Sequence[Target]) -> Load:
        load = Load()
        if not targets:
            return load
        query = queries.concurrency(self._rate_window)
        load.now = _by_deployment(await self._prometheus.instant(query))
        load.reporting = _by_deployment(await self._prometheus.instant(queries.reporting(self._fresh)))
        for window in {t.scaling.scale_down.stabilization_seconds for t in targets} - {0}:
            load.peak[window] = _by_deployment(await self._prometheus.instant(queries.peak(query, window)))
            load.samples[window] = _by_deployment(await self._prometheus.instant(queries.samples(query, window)))
        return load

    def _from_load(self, target: Target, metric: Metric, load: Load, window: int) -> Demand:
        where = (target.key.namespace, target.key.name)
        return measured(
            metric.type,
            float(metric.target),
            now=load.now.get(where),
            peak=load.peak.get(window, {}).get(where),
            window=window,
            samples=load.samples.get(window, {}).get(where),
            step=queries.STEP,
            reporting=int(load.reporting.get(where, 0)),
            ready=target.ready,
        )

    async def _from_user(self, target: Target, metric: Metric, window: int) -> Demand:
        """A query of the user's. Its window is asked for only when it could take replicas away."""
        query, goal = metric.query or "", float(metric.target)
        try:
            async with self._users:
                now = _single(await self._prometheus.instant(query))
                peak = samples = None
                if now is not None and window and Demand("", goal, now).need(now) < target.current:
                    peak = _single(await self._prometheus.instant(queries.peak(query, window)))
                    samples = _single(await self._prometheus.instant(queries.samples(query, window)))
        except PrometheusError as error:
            return Demand(metric.type, goal, None, None, window, (error.reason, error.message))
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


def _direction(now: int, then: int) -> str:
    return "hold" if then == now else "up" if then > now else "down"


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
