"""From start to exit: ports open first, then the model loads, then it serves, then SIGTERM drains it.

Drain: readiness turns false at once and every answer closes its connection, but all requests are still served. Only
when none came for a moment (or time is short) does the server stop listening, close the idle connections, finish what
is in flight and exit 0. A second SIGTERM ends it at once.
"""

import asyncio
import contextlib
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog
from aiohttp import web

from moorage_store import termination

from .engine import Engine, Runnable
from .failures import FAILED, StartupError
from .http import Edge, Serving, metrics_application
from .metrics import Metrics
from .settings import Settings

# Without a request for so long, clients have found other replicas. Longer than any balancer takes to act on readiness
# is `preStop`'s business; this is for connections that stay open.
QUIET_SECONDS = 1.5


async def run(settings: Settings) -> int:
    """Serves until SIGTERM; the exit code."""
    log: Any = structlog.get_logger()
    asked_to_stop = _signals()
    metrics = Metrics(settings.model_name, settings.model_version)
    edge = Edge(settings, metrics)
    # A client that goes away cancels its request, so the queue holds nothing that nobody waits for.
    runner = web.AppRunner(edge.application(), access_log=None, handler_cancellation=True, shutdown_timeout=1)
    metrics_runner = web.AppRunner(metrics_application(metrics), access_log=None, shutdown_timeout=1)
    site = await _listen(runner, settings.http_port)
    metrics_site = await _listen(metrics_runner, settings.metrics_port)
    log.info("listening", http=_port(site), metrics=_port(metrics_site), model=settings.model_name)

    thread = ThreadPoolExecutor(1, thread_name_prefix="model")
    start = time.perf_counter()
    loading = asyncio.get_running_loop().run_in_executor(thread, _load, settings)
    stop = asyncio.create_task(asked_to_stop.wait())
    await _first(loading, stop)
    if not loading.done():
        log.info("stopped while loading")
        return 0
    model, device = loading.result()
    seconds = time.perf_counter() - start
    metrics.loaded(seconds, settings.model_format, settings.model_sha256, device)

    engine = Engine(
        model,
        thread,
        max_batch_size=settings.max_batch_size,
        max_queue_size=settings.max_queue_size,
        max_delay=settings.max_queue_delay_microseconds / 1e6,
        observe_batch=metrics.batch_size.observe,
    )
    metrics.queue_size = lambda: engine.queue_size
    edge.serving = Serving(model.signature, engine)
    signature = {kind: [str(t) for t in getattr(model.signature, kind)] for kind in ("inputs", "outputs")}
    log.info("ready", seconds=round(seconds, 3), device=device, batches=model.signature.batch is not None, **signature)

    serving = asyncio.create_task(engine.serve())
    await _first(serving, stop)
    if serving.done():
        edge.draining = True
        engine.stop()
        await _until_none(metrics, 1.0)
        message = f"the model cannot run any more: {serving.exception()}"
        termination.write("DeviceUnavailable", message)
        log.error("model lost", message=message)
        return FAILED
    await _drain(settings, edge, site, runner, metrics, engine)
    await metrics_runner.cleanup()
    return 0


async def _drain(
    settings: Settings, edge: Edge, site: web.TCPSite, runner: web.AppRunner, metrics: Metrics, engine: Engine
) -> None:
    log: Any = structlog.get_logger()
    edge.draining = True
    begun = time.monotonic()
    end = begun + settings.drain_timeout_seconds
    # Under requests that never stop coming, some of the time is kept for those in flight.
    listen_until = end - min(2.0, settings.drain_timeout_seconds / 4)
    quiet = min(QUIET_SECONDS, settings.drain_timeout_seconds / 2)
    log.info("draining", in_flight=metrics.in_flight.now, seconds=settings.drain_timeout_seconds)
    while time.monotonic() < listen_until:
        if not metrics.in_flight.now and time.monotonic() - max(begun, edge.last_request) >= quiet:
            break
        await asyncio.sleep(0.05)
    await site.stop()
    await asyncio.sleep(0)
    if runner.server:
        runner.server.pre_shutdown()  # idle connections now, busy ones after their answer
    await _until_none(metrics, end - time.monotonic() - 0.2)
    cut_off = metrics.in_flight.now
    engine.stop()
    await runner.cleanup()
    log.info("drained", seconds=round(time.monotonic() - begun, 3), cut_off=cut_off)


async def _until_none(metrics: Metrics, seconds: float) -> None:
    """Waits until nothing is in flight, at most so long."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(metrics.in_flight.none.wait(), max(0.0, seconds))


def _load(settings: Settings) -> tuple[Runnable, str]:
    # Here and not above: torch takes a second or two to import, and probes are answered meanwhile.
    from .load import load

    model = load(settings)
    return model, model.device


async def _first(*futures: asyncio.Future[Any]) -> None:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


def _signals() -> asyncio.Event:
    asked = asyncio.Event()

    def on_signal() -> None:
        if asked.is_set():
            os._exit(termination.TRANSIENT)
        asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    return asked


async def _listen(runner: web.AppRunner, port: int) -> web.TCPSite:
    await runner.setup()
    site = web.TCPSite(runner, port=port, backlog=1024)
    try:
        await site.start()
    except OSError as error:
        raise StartupError(
            "InvalidConfiguration", f"cannot listen on port {port}: {error.strerror or error}"
        ) from error
    return site


def _port(site: web.TCPSite) -> int:
    """Its port; asked for port 0, IPv4 and IPv6 have one each, and IPv4's is told."""
    sockets = sorted(getattr(site._server, "sockets", ()), key=lambda one: one.family != socket.AF_INET)
    return int(sockets[0].getsockname()[1]) if sockets else 0
