"""The server's Prometheus metrics; their names are in the contract and the scaler reads them.

What changes with every request costs a counter and a histogram; what can be asked of the living server (requests in
flight, queue) is read when Prometheus scrapes.
"""

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
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

    def family(self, name: str, help: str, labels: dict[str, str]) -> HistogramMetricFamily:
        found = HistogramMetricFamily(name, help, labels=list(labels))
        ends = [*map(floatToGoString, self._bounds), "+Inf"]
        found.add_metric(list(labels.values()), list(zip(ends, accumulate(self._counts), strict=True)), self._sum)
        return found


class Metrics:
    def __init__(self, model: str, version: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.labels = {"model": model, "version": version}
        self._registry = registry = CollectorRegistry()
        self.in_flight = InFlight()
        self.queue_size: Callable[[], int] = lambda: 0
        self.queue_oldest: Callable[[], float] = lambda: 0.0
        self.requests: Counter[int] = Counter()
        """By HTTP status."""
        self.durations, self.waits, self.runs = Durations(_SECONDS), Durations(_SECONDS), Durations(_SECONDS)
        self.batch_size = Histogram(
            "moorage_server_batch_size", "Rows that went through the model together.", buckets=_ROWS, registry=registry
        )
        self.load_seconds = Gauge(
            "moorage_server_model_load_seconds", "Time to check and load the model.", registry=registry
        )
        self.warm_up_seconds = Gauge(
            "moorage_server_warm_up_seconds", "Time of the model's first runs, before it is ready.", registry=registry
        )
        self._speed = Gauge(
            "moorage_server_forward_rows_per_second",
            "Of the model alone, by the rows of a batch; measured once before it served.",
            ["rows"],
            registry=registry,
        )
        self._info = Gauge(
            "moorage_server_model_info",
            "The model being served; always 1.",
            ["model", "version", "format", "sha256", "device"],
            registry=registry,
        )
        registry.register(_Live(self))
        ProcessCollector(registry=registry)

    def answered(self, code: int, seconds: float) -> None:
        self.requests[code] += 1
        self.durations.observe(seconds)

    def ran(self, waited: Iterable[float], seconds: float) -> None:
        """A batch: how long each of its requests had waited, and how long the model took."""
        for wait in waited:
            self.waits.observe(wait)
        self.runs.observe(seconds)

    def loaded(self, load_seconds: float, warm_up_seconds: float, format: str, sha256: str, device: str) -> None:
        self.load_seconds.set(load_seconds)
        self.warm_up_seconds.set(warm_up_seconds)
        self._info.labels(**self.labels, format=format, sha256=sha256, device=device).set(1)

    def measured(self, batch_seconds: Mapping[int, float]) -> None:
        for rows, seconds in batch_seconds.items():
            self._speed.labels(rows=str(rows)).set(round(rows / seconds, 1))

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Body and content type for a scrape."""
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a version that is none
            encode, content_type = choose_encoder("")
        return encode(self._registry), content_type


class _Live(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        in_flight = self._metrics.in_flight
        labels = self._metrics.labels
        requests = CounterMetricFamily(
            "moorage_server_requests_total",
            "Inference requests by HTTP status; 499 where the client went away first.",
            labels=[*labels, "code"],
        )
        for code, count in sorted(self._metrics.requests.items()):
            requests.add_metric([*labels.values(), str(code)], count)
        yield requests
        yield self._metrics.durations.family(
            "moorage_server_request_duration_seconds",
            "Time of an inference request in the server, from its headers to its answer.",
            labels,
        )
        yield GaugeMetricFamily(
            "moorage_server_requests_in_flight", "Inference requests waiting or running.", value=in_flight.now
        )
        yield CounterMetricFamily(
            "moorage_server_in_flight_seconds_total",
            "Integral of the requests in flight over time: its rate is the exact mean concurrency.",
            value=in_flight.seconds,
        )
        yield GaugeMetricFamily(
            "moorage_server_queue_size", "Requests waiting for a batch.", value=self._metrics.queue_size()
        )
        yield GaugeMetricFamily(
            "moorage_server_queue_oldest_seconds",
            "How long the request that came first has been waiting for a batch; 0 where none waits.",
            value=self._metrics.queue_oldest(),
        )
        yield self._metrics.waits.family(
            "moorage_server_queue_duration_seconds", "Time that a request waited for its batch.", labels
        )
        yield self._metrics.runs.family(
            "moorage_server_forward_duration_seconds",
            "Time of a batch in the model: the rate of its sum is the busy fraction.",
            labels,
        )
