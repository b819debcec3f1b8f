"""What the operator tells of itself: metrics and structured logs, both with names that stay.

Log lines are JSON with `ts`, `level`, `event` and, where they are about an object, `kind`, `namespace` and `name`.
Nothing here decides anything, so every other module may import it.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Iterable, MutableMapping
from datetime import UTC, datetime
from typing import Any

import structlog
from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

# Each help text is also the row of its metric in docs/operations.md: `make docs` writes them there.
TASKS = Gauge("moorage_operator_tasks", "asyncio tasks that live. Steady at rest.")
LEADER = Gauge("moorage_operator_leader", "1 on the pod that leads, 0 on those that stand by.")
QUEUE_DEPTH = Gauge("moorage_operator_queue_depth", "Resources that wait for a worker.")
QUEUE_DELAYED = Gauge(
    "moorage_operator_queue_delayed", "Resources that wait for their time: a later look, or a try after an error."
)
RECONCILE_DURATION = Histogram(
    "moorage_operator_reconcile_duration_seconds",
    "Time of one reconcile.",
    ["kind"],
    buckets=(0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
RECONCILE_ERRORS = Counter("moorage_operator_reconcile_errors", "Reconciles that failed.", ["kind", "reason"])
API_REQUESTS = Counter(
    "moorage_operator_api_requests",
    "Requests to the API server; at rest only those of the Lease. kopf's watches are not in it.",
    ["verb", "resource", "code"],
)
WATCH_EVENTS = Counter("moorage_operator_watch_events", "Events seen on watches.", ["kind", "type"])
WATCH_LAG = Gauge(
    "moorage_operator_watch_lag_seconds",
    "Since when a watch owes a change known from elsewhere; 0 when all is current. The pod ends, to start anew, beyond "
    "reconcile.watchLagLimitSeconds.",
)
WATCH_RESTARTS = Counter(
    "moorage_operator_watch_restarts",
    "Watches of children begun anew, after a list (expired) or after a break of the connection (error).",
    ["kind", "cause"],
)
NEEDLESS_APPLIES = Counter(
    "moorage_operator_needless_applies",
    "Applies that changed nothing: the API server stores the object otherwise than it was sent. Should stay 0.",
    ["kind"],
)
RESYNC_DURATION = Histogram("moorage_operator_resync_duration_seconds", "Time to list every kind again.")
RESYNC_PRUNED = Counter("moorage_operator_resync_pruned", "Objects that had vanished without a watch event.", ["kind"])
SCALING_DECISIONS = Counter(
    "moorage_operator_scaling_decisions", "Decisions of the scaler: up, down or hold.", ["direction"]
)
SCALING_QUERIES = Counter(
    "moorage_operator_scaling_queries", "Queries to Prometheus: ok, or the reason of ScalingActive.", ["outcome"]
)
SCALING_TICK = Histogram("moorage_operator_scaling_tick_seconds", "Time of one round of the scaling loop.")
EVENTS_POSTED = Counter(
    "moorage_operator_events_posted", "Kubernetes Events: written, failed, or gone with what they were of.", ["outcome"]
)


AT_ONCE = 50
"""Resources looked at before others have their turn: some two milliseconds."""


class Conditions(Collector):
    """What the conditions of all resources say together, as the pod that leads counts it from time to time.

    One series for each kind, condition and status, never one for each resource: ten thousand of them cost no more
    than two. Which one it is, `kubectl get mdep,tjob -A` says.
    """

    def __init__(self) -> None:
        # By labels: how many, and since when the first. Times of one form and zone, so the text that sorts first is it.
        self._found: dict[tuple[str, str, str], tuple[int, str]] = {}

    async def keep_counting(self, resources: Callable[[], Iterable[dict[str, Any]]], every: float = 60) -> None:
        """Never for long at a time: a reconcile does not wait for it."""
        while True:
            found: dict[tuple[str, str, str], tuple[int, str]] = {}
            for number, obj in enumerate(resources(), start=1):
                for condition in (obj.get("status") or {}).get("conditions") or ():
                    labels, since = (
                        (obj["kind"], condition["type"], condition["status"]),
                        condition["lastTransitionTime"],
                    )
                    known = found.get(labels)
                    found[labels] = (1, since) if known is None else (known[0] + 1, min(known[1], since))
                if number % AT_ONCE == 0:
                    await asyncio.sleep(0)
            self._found = found
            await asyncio.sleep(every)

    def describe(self) -> tuple[GaugeMetricFamily, GaugeMetricFamily]:
        labels = ("kind", "condition", "status")
        return (
            GaugeMetricFamily("moorage_operator_conditions", "Resources by what a condition says.", labels=labels),
            GaugeMetricFamily(
                "moorage_operator_condition_age_seconds",
                "How long the condition has had this status on the resource where it has had it longest.",
                labels=labels,
            ),
        )

    def collect(self) -> tuple[GaugeMetricFamily, GaugeMetricFamily]:
        count, age = self.describe()
        now = datetime.now(UTC)
        for labels, (number, since) in self._found.items():
            count.add_metric(labels, number)
            age.add_metric(labels, max(0.0, (now - datetime.fromisoformat(since)).total_seconds()))
        return count, age


CONDITIONS = Conditions()
REGISTRY.register(CONDITIONS)


def configure_logging(level: str, form: str) -> None:
    """Send every log line, kopf's and aiohttp's too, through one formatter to stdout."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
    ]
    renderer: Any = structlog.processors.JSONRenderer() if form == "json" else structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(), _source],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                _order,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # kopf tells of every event it hands over, which says nothing that our own lines do not.
    logging.getLogger("kopf").setLevel(logging.WARNING)
    logging.getLogger("kubernetes").setLevel(logging.WARNING)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)


def _order(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """What people look for first comes first."""
    first = {key: line[key] for key in ("ts", "level", "event", "kind", "namespace", "name") if key in line}
    return {**first, **line}


def _source(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Where a line of a library comes from; kopf's own object reference has no place in ours."""
    record = line.get("_record")
    if record is not None:
        line["logger"] = record.name
    for noise in ("k8s_ref", "k8s_skip", "settings"):
        line.pop(noise, None)
    return line
