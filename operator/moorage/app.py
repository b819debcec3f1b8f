"""Start-up and shutdown, in the one order that works; what each part does is in its own module.

Settings and logs, the client, the probes, then the CRDs, then the election: a process that waits for either is healthy.
What begins with leading is in `leadership`. The end is the end of the process: nobody waits for kopf.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import secrets
import signal
import socket
import sys
from asyncio import sslproto
from collections.abc import Coroutine
from typing import Any

import structlog
from pydantic import ValidationError
from pydantic_settings import SettingsError

from moorage import __version__, telemetry
from moorage.kube.client import Client
from moorage.kube.errors import ApiError
from moorage.kube.kinds import OWNERS
from moorage.kube.lease import Election, LeaseLost, Timing
from moorage.kube.library import ConfigException
from moorage.leadership import Leadership, Trouble
from moorage.probes import Doors
from moorage.settings import Settings, complaints

log = structlog.get_logger()

EX_CONFIG = 78

TLS_BUFFER = 65_536
"""Bytes that each TLS connection reads into. asyncio's 256 KiB, for records of 16 at most, are 7 MiB with all workers
and watches connected."""


def run() -> None:
    """Serve until told to stop. Ends the process."""
    try:
        settings = Settings()
    except (ValidationError, SettingsError) as error:
        print(*complaints(error), sep="\n", file=sys.stderr)
        sys.exit(EX_CONFIG)
    telemetry.configure_logging(settings.log_level, settings.log_format)
    sslproto.SSLProtocol.max_size = TLS_BUFFER
    # What was imported stays, and a page of a list is tens of thousands of dicts, none in a cycle: without this the
    # collector goes through both together at every second page.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    # Not uvloop: it hands out file descriptors anew that cancelled or failed connections of aiohttp still hold. A
    # restart of the API server then ends the watches ("File descriptor is used by transport"; known upstream).
    asyncio.run(_to_the_end(settings))


async def _to_the_end(settings: Settings) -> None:
    code = await Operator(settings).main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not by way of the loop's own shutdown: it would wait for tasks of kopf that may never end.
    os._exit(code)


class Operator:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._identity = f"{socket.gethostname()}_{secrets.token_hex(4)}"
        self._stop = asyncio.Event()
        self._ready = False
        self._leadership: Leadership | None = None
        self._counting: asyncio.Task[None] | None = None

    async def main(self) -> int:
        """The process's exit code."""
        self._handle_signals()
        try:
            client = await Client.connect(
                request_timeout=self._settings.request_timeout_seconds, user_agent=self._settings.user_agent
            )
        except ConfigException as error:
            log.error("no way to the API server", error=str(error))
            return EX_CONFIG
        doors = Doors()
        try:
            await doors.open(
                self._settings.bind_address,
                metrics_port=self._settings.metrics_port,
                health_port=self._settings.health_port,
                live=self._not_alive,
                ready=lambda: "" if self._ready else "waiting for the CRDs",
            )
            return await self._serve(client)
        except OSError as error:
            log.error("cannot listen", error=str(error))
            return 1
        finally:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(1):
                    await doors.close()
                    await client.close()

    def _handle_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)

    def _not_alive(self) -> str:
        return self._leadership.not_alive() if self._leadership is not None and not self._stop.is_set() else ""

    async def _serve(self, client: Client) -> int:
        settings = self._settings
        timing = Timing(
            settings.lease_duration_seconds, settings.lease_renew_deadline_seconds, settings.lease_retry_seconds
        )
        election = Election(client, settings.lease_namespace, settings.lease_name, self._identity, timing)
        log.info("starting", version=__version__, identity=self._identity, namespaces=settings.namespaces or "all")
        if not await self._unless_stopped(self._wait_for_crds(client)):
            return 0
        self._ready = True
        try:
            if not await self._unless_stopped(election.acquire()):
                return 0
            self._leadership = Leadership(client, election, settings, self._identity, self._handle_signals)
            store = self._leadership.store
            counting = telemetry.CONDITIONS.keep_counting(lambda: (obj for kind in OWNERS for obj in store.of(kind)))
            self._counting = asyncio.create_task(counting, name="conditions")
            await self._leadership.serve(self._stop)
        except (LeaseLost, Trouble) as error:
            log.error("ending", reason=str(error))
            return 1
        finally:
            if self._counting is not None:
                self._counting.cancel()
            if self._leadership is not None:
                await self._leadership.wind_up()
            else:
                await election.release()
        return 0

    async def _unless_stopped(self, work: Coroutine[Any, Any, None]) -> bool:
        """Whether the work was done before somebody said stop."""
        task, stop = asyncio.create_task(work), asyncio.create_task(self._stop.wait())
        done, pending = await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        for other in pending:
            other.cancel()
        if task in done:
            task.result()
            return True
        return False

    async def _wait_for_crds(self, client: Client) -> None:
        """kopf never notices a CRD that comes after it, so the wait is ours."""
        said = ""
        while True:
            try:
                missing = [kind.plural for kind in OWNERS if not await client.serves(kind)]
                if not missing:
                    return
                message = f"waiting for the CRDs of {', '.join(missing)}: install them with kubectl apply -f crds/"
            except ApiError as error:
                message = error.message
            if message != said:
                log.warning(message)
                said = message
            await asyncio.sleep(1)
