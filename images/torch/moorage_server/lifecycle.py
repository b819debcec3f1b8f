"""From start to exit: ports open first, then the model loads, then it serves, then SIGTERM drains it.

Drain: readiness turns false at once and every answer closes its connection, but all requests are still served. Only
when none came for a moment (or time is short) does the server stop listening, close the idle connections, finish what
is in flight and exit 0. A second SIGTERM ends it at once.
"""

import asyncio
import errno
import os
import resource
import signal
import socket
import ssl
import time
from dataclasses import replace
from typing import Any

import structlog

from moorage_store import termination

from . import security
from .door import Door
from .edge import Edge, MetricsEdge
from .failures import FAILED, DeviceLost, ModelCrashed, StartupError
from .memory import keep_freed
from .messages import Limits
from .metrics import Metrics
from .repository import Repository
from .rpc import Rpc
from .security import Certificate, Tokens
from .settings import Settings

# Without a request for so long, clients have found other replicas. Longer than any balancer takes to act on readiness
# is `preStop`'s business; this is for connections that stay open.
QUIET_SECONDS = 1.5
METRICS_CONNECTIONS = 64


async def run(settings: Settings) -> int:
    """Serves until SIGTERM; the exit code."""
    log: Any = structlog.get_logger()
    keep_freed()
    asked_to_stop = _signals()
    metrics = Metrics()
    repository = Repository(settings, metrics)
    tokens: Tokens | None = security.opened(Tokens, settings.token_file)
    certificate: Certificate | None = security.opened(Certificate, settings.tls_folder)
    edge = Edge(settings, metrics, repository, tokens)
    limits = Limits(
        connections=settings.max_connections,
        body_bytes=settings.max_body_bytes,
        all_requests_bytes=settings.max_total_body_bytes,
        head_seconds=settings.header_timeout_seconds,
        body_seconds=settings.body_timeout_seconds,
        idle_seconds=settings.idle_timeout_seconds,
    )
    door, metrics_door = (
        Door(edge, limits, Rpc(edge)),
        Door(MetricsEdge(metrics), replace(limits, connections=METRICS_CONNECTIONS)),
    )
    _allow_files(2 * (settings.max_connections + METRICS_CONNECTIONS) + 256)
    tls = certificate.context if certificate else None
    ports = {
        "http": await _open(door, settings.http_port, tls),
        "metrics": await _open(metrics_door, settings.metrics_port),
    }
    following = asyncio.create_task(security.follow([one for one in (tokens, certificate) if one is not None]))
    log.info("listening", **ports, models=[source.name for source in settings.models[:10]])

    loading = asyncio.create_task(repository.start())
    stop = asyncio.create_task(asked_to_stop.wait())
    await _first(loading, stop)
    if not loading.done():
        log.info("stopped while loading")
        return 0
    loading.result()
    log.info("ready", models=sum(entry.engine is not None for entry in repository.entries.values()))

    await _first(repository.broken, stop)
    if repository.broken.done():
        edge.draining = True
        repository.stop()
        await _until_none(metrics, 1.0)
        await door.end()
        error = repository.broken.exception()
        assert error is not None  # it does not end otherwise
        if isinstance(error, ModelCrashed):
            raise StartupError("ModelCrashed", f"{error}; its log says more") from error
        if not isinstance(error, DeviceLost):
            raise error
        raise StartupError("DeviceUnavailable", f"the model cannot run any more: {error}", FAILED) from error
    await _drain(settings, edge, door, metrics, repository)
    await metrics_door.end()
    following.cancel()
    return 0


async def _drain(settings: Settings, edge: Edge, door: Door, metrics: Metrics, repository: Repository) -> None:
    log: Any = structlog.get_logger()
    edge.draining = True
    door.part()
    begun = time.perf_counter()
    end = begun + settings.drain_timeout_seconds
    # Under requests that never stop coming, some of the time is kept for those in flight.
    listen_until = end - min(2.0, settings.drain_timeout_seconds / 4)
    quiet = min(QUIET_SECONDS, settings.drain_timeout_seconds / 2)
    log.info("draining", in_flight=metrics.in_flight.now, seconds=settings.drain_timeout_seconds)
    while time.perf_counter() < listen_until:
        if not metrics.in_flight.now and time.perf_counter() - max(begun, edge.last_request) >= quiet:
            break
        await asyncio.sleep(0.05)
    door.close()  # idle connections now, busy ones after their answer
    await _until_none(metrics, end - time.perf_counter() - 0.2)
    cut_off = metrics.in_flight.now
    repository.stop()
    await door.end(max(1.0, end - time.perf_counter()))
    log.info("drained", seconds=round(time.perf_counter() - begun, 3), cut_off=cut_off)


async def _until_none(metrics: Metrics, seconds: float) -> None:
    """Waits until nothing is in flight, at most so long."""
    end = time.monotonic() + seconds
    while metrics.in_flight.now and time.monotonic() < end:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def _first(*futures: asyncio.Future[Any]) -> None:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


def _allow_files(count: int) -> None:
    """A connection is a file, and by some runtimes' default a process may open 1024 until it asks for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))
    if hard < count:
        structlog.get_logger().warning("fewer files may be open than there may be connections", files=hard, need=count)


def _signals() -> asyncio.Event:
    asked = asyncio.Event()

    def on_signal() -> None:
        if asked.is_set():
            os._exit(termination.TRANSIENT)
        asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    return asked


async def _open(door: Door, port: int, tls: ssl.SSLContext | None = None) -> int:
    """The port it listens on; asked for port 0, IPv4 and IPv6 have one each, and IPv4's is told."""
    try:
        sockets = (await door.open(port, tls)).sockets
    except OSError as error:
        reason = "PortInUse" if error.errno == errno.EADDRINUSE else "InvalidConfiguration"
        raise StartupError(reason, f"cannot listen on port {port}: {error.strerror or error}") from error
    return int(min(sockets, key=lambda one: one.family != socket.AF_INET).getsockname()[1])
