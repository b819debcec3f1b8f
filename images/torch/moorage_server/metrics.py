"""The server's Prometheus metrics; their names are in the contract and the scaler reads them.

What changes with every request costs a counter and a histogram; what can be asked of the living server (requests in
flight, queue) is read when Prometheus scrapes.
"""

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import accumulate

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client import Counter as PromCounter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_MODEL = ("model", "version")
# Of each of several models: a scrape of hundreds has to be read by somebody.
_FEW_SECONDS = (0.001, 0.01, 0.1, 1, 10)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class InFlight:
    """Requests waiting or running, and the exact integral of their number over time.

    The integral is the time of all that have ended and of those that have not: no clock is asked for it.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._ended = self._begins = 0.0
        self.now = 0

    @property
    def seconds(self) -> float:
        """The integral up to this moment, so that a request which takes hours counts before it ends."""
        return self._ended + self.now * self._clock() - self._begins

    def begin(self, at: float) -> None:
        self.now += 1
        self._begins += at

    def end(self, began: float, took: float) -> None:
        self.now -= 1
        self._begins -= began
        if not self.now:
            self._begins = 0.0  # what rounding has left of it
        self._ended += took


class Durations:
    """A histogram without the library's locks: all is on the loop's thread."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds, self._counts, self._sum = bounds, [0] * (len(bounds) + 1), 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    def add_to(self, family: HistogramMetricFamily, labels: list[str]) -> None:
        ends = [*map(floatToGoString, self._bounds), "+Inf"]
        family.add_metric(labels, list(zip(ends, accumulate(self._counts), strict=True)), self._sum)


class ModelMetrics:
    """Of the requests for one model."""

    def __init__(self, model: str, version: str, buckets: tuple[float, ...] = _SECONDS) -> None:
        self.labels = {"model": model, "version": version}
        self.requests: Counter[int] = Counter()
        """By HTTP status."""
        self.durations, self.waits, self.runs = Durations(buckets), Durations(buckets), Durations(buckets)
        self.firsts = Durations(buckets)
        self.pieces = 0

    def answered(self, code: int, seconds: float) -> None:
        self.requests[code] += 1
        self.durations.observe(seconds)

    def piece(self, began: float, *, first: bool) -> None:
        """Of a text, for a request that came then (time.perf_counter())."""
        self.pieces += 1
        if first:
            self.firsts.observe(time.perf_counter() - began)

    def ran(self, waited: Iterable[float], seconds: float) -> None:
        """A batch: how long each of its requests had waited, and how long the model took."""
        for wait in waited:
            self.waits.observe(wait)
        self.runs.observe(seconds)


class Metrics:
    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry = CollectorRegistry(auto_describe=True)
        self.in_flight = InFlight()
        self.queue_size: Callable[[], int] = lambda: 0
        self.queue_oldest: Callable[[], float] = lambda: 0.0
        self.models: list[ModelMetrics] = []
        self.nobody = ModelMetrics("", "")
        """Of requests for models that are not served: their names could be as many as clients like."""
        self.batch_size = Histogram(
            "moorage_server_batch_size", "Rows that went through the model together.", buckets=_ROWS, registry=registry
        )
        self.load_seconds = Gauge(
            "moorage_server_model_load_seconds", "Time to check and load what was served first.", registry=registry
        )
        self.warm_up_seconds = Gauge(
            "moorage_server_warm_up_seconds", "Time of the first runs of it, before it was ready.", registry=registry
        )
        self.memory_budget = Gauge(
            "moorage_server_memory_budget_bytes",
            "What all models together may take; 0 where there is no limit.",
            registry=registry,
        )
        self._loads = PromCounter(
            "moorage_server_model_loads_total", "How often a model was loaded.", [*_MODEL, "result"], registry=registry
        )
        self.evictions = PromCounter(
            "moorage_server_model_evictions_total",
            "How often a model made room for another.",
            _MODEL,
            registry=registry,
        )
        self._memory = Gauge(
            "moorage_server_model_memory_bytes",
            "What a model takes of its device's memory; 0 while it is not loaded.",
            _MODEL,
            registry=registry,
        )
        self._failed = Gauge(
            "moorage_server_model_failed",
            "1 for a model that could not be loaded; gone once it could.",
            [*_MODEL, "reason"],
            registry=registry,
        )
        self._speed = Gauge(
            "moorage_server_forward_rows_per_second",
            "Of the model alone, by the rows of a batch; measured when it was loaded.",
            [*_MODEL, "rows"],
            registry=registry,
        )
        self._info = Gauge(
            "moorage_server_model_info",
            "The model being served; always 1.",
            [*_MODEL, "format", "sha256", "device", "weights"],
            registry=registry,
        )
        self._gpus = False
        registry.register(_Live(self))
        ProcessCollector(registry=registry)

    def of(self, model: str, version: str, *, several: bool) -> ModelMetrics:
        """`several`: it is one of them."""
        made = ModelMetrics(model, version, _FEW_SECONDS if several else _SECONDS)
        self.models.append(made)
        return made

    def loaded(
        self, model: ModelMetrics, bytes: int, info: Mapping[str, str], batch_seconds: Mapping[int, float]
    ) -> None:
        labels = model.labels
        self._loads.labels(**labels, result="success").inc()
        self._memory.labels(**labels).set(bytes)
        self._info.labels(**labels, **info).set(1)
        for rows, seconds in batch_seconds.items():
            self._speed.labels(**labels, rows=str(rows)).set(round(rows / seconds, 1))
        if info["device"] == "cuda" and not self._gpus:
            from . import gpu  # and its library, of which only a server with a GPU has need

            self._gpus = True
            gpu.register(self._registry)

    def failed(self, model: ModelMetrics, reason: str) -> None:
        self._loads.labels(**model.labels, result="failure").inc()
        self._failed.labels(**model.labels, reason=reason).set(1)

    def mended(self, model: ModelMetrics, reason: str) -> None:
        """What had failed for this reason is no more."""
        self._failed.remove(*model.labels.values(), reason)

    def unloaded(self, model: ModelMetrics) -> None:
        self._memory.labels(**model.labels).set(0)

    def exposition(self, accept: str, names: Collection[str] = ()) -> tuple[bytes, str]:
        """Body and content type for a scrape. `names`: of these samples only, where there are any."""
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a version that is none
            encode, content_type = choose_encoder("")
        registry = self._registry.restricted_registry(names) if names else self._registry
        return encode(registry), content_type


class _Live(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        metrics = self._metrics
        requests = CounterMetricFamily(
            "moorage_server_requests_total",
            "Inference requests by HTTP status; 499 where the client went away first.",
            labels=[*_MODEL, "code"],
        )
        durations = _histogram(
            "moorage_server_request_duration_seconds",
            "Time of an inference request in the server, from its headers to its answer.",
        )
        waits = _histogram("moorage_server_queue_duration_seconds", "Time that a request waited for its batch.")
        runs = _histogram(
            "moorage_server_forward_duration_seconds",
            "Time of a batch in the model: the rate of its sum is the busy fraction.",
        )
        firsts = _histogram(
            "moorage_server_time_to_first_token_seconds",
            "Time from a request's headers to the first piece of its text.",
        )
        pieces = CounterMetricFamily(
            "moorage_server_generated_tokens_total",
            "Pieces of text that models gave: of most models a token each.",
            labels=_MODEL,
        )
        for model in {*metrics.models, metrics.nobody}:
            if not model.requests and len(metrics.models) > 1:
                continue
            labels = list(model.labels.values())
            for code, count in sorted(model.requests.items()):
                requests.add_metric([*labels, str(code)], count)
            model.durations.add_to(durations, labels)
            model.waits.add_to(waits, labels)
            model.runs.add_to(runs, labels)
            if model.pieces:
                model.firsts.add_to(firsts, labels)
                pieces.add_metric(labels, model.pieces)
        yield from (requests, durations, waits, runs, firsts, pieces)
        yield GaugeMetricFamily(
            "moorage_server_requests_in_flight", "Inference requests waiting or running.", value=metrics.in_flight.now
        )
        yield CounterMetricFamily(
            "moorage_server_in_flight_seconds_total",
            "Integral of the requests in flight over time: its rate is the exact mean concurrency.",
            value=metrics.in_flight.seconds,
        )
        yield GaugeMetricFamily(
            "moorage_server_queue_size", "Requests waiting for a batch.", value=metrics.queue_size()
        )
        yield GaugeMetricFamily(
            "moorage_server_queue_oldest_seconds",
            "How long the request that came first has been waiting for a batch; 0 where none waits.",
            value=metrics.queue_oldest(),
        )


def _histogram(name: str, help: str) -> HistogramMetricFamily:
    return HistogramMetricFamily(name, help, labels=_MODEL)
