"""The operator's own HTTP doors: metrics for Prometheus, liveness and readiness for the kubelet.

They run in the event loop on purpose: a loop that is blocked answers no probe.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from moorage import telemetry

Check = Callable[[], str]
"""Empty when all is well, otherwise what is wrong."""


def _answer(check: Check) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(_request: web.Request) -> web.StreamResponse:
        wrong = check()
        return web.Response(text=f"{wrong or 'ok'}\n", status=503 if wrong else 200)

    return handle


async def _metrics(_request: web.Request) -> web.Response:
    telemetry.TASKS.set(len(asyncio.all_tasks()))
    return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})


class Doors:
    def __init__(self) -> None:
        self._runners: list[web.AppRunner] = []

    async def open(self, address: str, *, metrics_port: int, health_port: int, live: Check, ready: Check) -> None:
        health = web.Application()
        health.router.add_get("/healthz", _answer(live))
        health.router.add_get("/readyz", _answer(ready))
        metrics = web.Application()
        metrics.router.add_get("/metrics", _metrics)
        for app, port in ((health, health_port), (metrics, metrics_port)):
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
            await runner.setup()
            self._runners.append(runner)
            await web.TCPSite(runner, address, port).start()

    async def close(self) -> None:
        for runner in self._runners:
            await runner.cleanup()
