"""Start-up and shutdown, in the one order that works; what each part does is in its own module.

Client and probes first, then the CRDs, then the election. On leading: every kind is listed before a worker or kopf
starts, since a resource seen before its children would have them applied again. On the way out the workers stop, the
lease is released, and nobody waits for kopf. A leader that is in doubt ends its process: the next one starts clean.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Coroutine
from typing import Any

import aiohttp
import kopf
import structlog
import uvloop
from kubernetes.aio.config import ConfigException
from pydantic import ValidationError

from moorage import __version__, handlers, telemetry
from moorage.kube.client import Client
from moorage.kube.errors import ApiError
from moorage.kube.events import Recorder
from moorage.kube.kinds import OWNERS
from moorage.kube.lease import Election, LeaseLost, Timing
from moorage.probes import Doors
from moorage.reconcile.queue import WorkQueue
from moorage.reconcile.reconciler import Reconciler
from moorage.reconcile.replicas import Replicas
from moorage.reconcile.resync import Resync
from moorage.reconcile.store import Store
from moorage.scaling.loop import ScalingLoop
from moorage.scaling.prometheus import Prometheus
from moorage.settings import Settings

log = structlog.get_logger()

EX_CONFIG = 78
KOPF_GRACE = 2.0
"""How long the end waits for kopf, which takes 5.5 s to stop and may hang: it writes nothing, so nothing is lost."""

WATCHES_START = 60.0
"""kopf looks around and retries before it watches; after this time something is wrong."""

LIST_AGAIN = 5.0


class Trouble(Exception):
    """A reason to end the process that the log should state in one line."""


def run() -> None:
    """Serve until told to stop. Ends the process."""
    try:
        settings = Settings()
    except ValidationError as error:
        for problem in error.errors():
            name = "MOORAGE_" + "_".join(str(part) for part in problem["loc"]).upper()
            print(f"{name}: {problem['msg']} (given: {problem['input']!r})", file=sys.stderr)
        sys.exit(EX_CONFIG)
    telemetry.configure_logging(settings.log_level, settings.log_format)
    uvloop.run(_to_the_end(settings))


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
        self._watching: set[str] = set()
        self._all_watching_by = 0.0
        self._kopf: asyncio.Task[None] | None = None
        self._kopf_stop = asyncio.Event()
        self._store = Store(scoped=bool(settings.namespaces))
        self._tasks: list[asyncio.Task[Any]] = []

    async def main(self) -> int:
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
                ready=lambda: "" if self._ready else "starting",
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

    async def _serve(self, client: Client) -> int:
        settings = self._settings
        election = Election(
            client,
            settings.lease_namespace,
            settings.lease_name,
            self._identity,
            Timing(
                settings.lease_duration_seconds, settings.lease_renew_deadline_seconds, settings.lease_retry_seconds
            ),
        )
        log.info("starting", version=__version__, identity=self._identity, namespaces=settings.namespaces or "all")
        try:
            if not await self._unless_stopped(self._wait_for_crds(client)):
                return 0
            self._ready = True
            if not await self._unless_stopped(election.acquire()):
                return 0
            await self._lead(client, election)
        except (LeaseLost, Trouble) as error:
            log.error("ending", reason=str(error))
            return 1
        finally:
            telemetry.LEADER.set(0)
            await self._wind_up(election)
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

    async def _lead(self, client: Client, election: Election) -> None:
        settings, queue = self._settings, WorkQueue()
        telemetry.LEADER.set(1)
        # Every long-lived task of ours begins before kopf's: on its way out kopf cancels all that came after it.
        self._spawn("stop", self._wait_for_stop())
        self._spawn("lease", election.hold())
        resync = Resync(
            client, self._store, queue, settings.namespaces, pod_monitors=settings.pod_monitors != "Disabled"
        )
        await self._first_list(resync)
        async with aiohttp.ClientSession() as session:
            replicas = Replicas(self._store, queue, measuring=bool(settings.prometheus_url))
            recorder = Recorder(client, self._identity)
            reconciler = Reconciler(client, self._store, queue, recorder, resync, replicas, session, settings)
            for name, loop in reconciler.loops():
                self._spawn(name, loop)
            self._spawn("resync", resync.run(settings.resync_seconds))
            if settings.prometheus_url:
                self._spawn("scaling", self._scaling(session, replicas).run(settings.scaling_interval_seconds))
            self._spawn("watch check", self._check_watches())
            await self._start_kopf(queue)
            log.info("serving", workers=settings.workers)
            await self._until_something_ends()

    def _scaling(self, session: aiohttp.ClientSession, replicas: Replicas) -> ScalingLoop:
        settings = self._settings
        return ScalingLoop(
            Prometheus(session, settings.prometheus_url, settings.prometheus_timeout_seconds),
            replicas.scaled,
            replicas.publish,
            rate_window=settings.scaling_rate_window_seconds,
            fresh=settings.scaling_fresh_seconds,
        )

    async def _first_list(self, resync: Resync) -> None:
        while not self._stop.is_set():
            try:
                missing = await resync.check_rights()
                if missing:
                    raise Trouble("rights are missing: " + "; ".join(missing))
                await resync.once()
                return
            except ApiError as error:
                log.warning("first list failed, trying again", error=error.message)
                await asyncio.sleep(LIST_AGAIN)

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work, name=name))

    async def _start_kopf(self, queue: WorkQueue) -> None:
        before = asyncio.all_tasks()
        namespaces = self._settings.namespaces
        tasks = await kopf.spawn_tasks(
            registry=handlers.registry(self._store, queue),
            settings=handlers.settings(),
            clusterwide=not namespaces,
            namespaces=namespaces,
            stop_flag=self._kopf_stop,
        )
        # kopf has just taken SIGTERM for itself; its way out is not ours.
        self._handle_signals()
        self._kopf = asyncio.create_task(kopf.run_tasks(tasks, ignored=before), name="kopf")
        self._watching = handlers.watcher_names(namespaces)
        self._all_watching_by = time.monotonic() + WATCHES_START

    async def _until_something_ends(self) -> None:
        assert self._kopf is not None
        done, _ = await asyncio.wait({self._kopf, *self._tasks}, return_when=asyncio.FIRST_COMPLETED)
        if self._stop.is_set():
            return
        for task in done:
            # None of them ends by itself, so whatever it says is why we end.
            error = None if task.cancelled() else task.exception()
            if isinstance(error, LeaseLost | Trouble):
                raise error
            raise Trouble(f"{task.get_name()} ended: {error!r}") from error

    async def _wait_for_stop(self) -> None:
        await self._stop.wait()

    async def _wind_up(self, election: Election) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1)
        # Nothing writes any more: whoever is next may begin while we still clear up.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(3):
                await election.release()
        self._kopf_stop.set()
        if self._kopf is not None and not self._kopf.done():
            await asyncio.wait({self._kopf}, timeout=KOPF_GRACE)

    async def _check_watches(self) -> None:
        """A watch that is dead or silent ends the process; a relist can only come from a fresh one."""
        await asyncio.sleep(10)
        while True:
            lag, kind = self._store.lag()
            telemetry.WATCH_LAG.set(lag)
            if lag > self._settings.watch_lag_limit_seconds:
                raise Trouble(f"the watch of {kind} has been silent for {lag:.0f} s while it owed us changes")
            if wrong := self._not_alive():
                raise Trouble(wrong)
            await asyncio.sleep(2)

    def _not_alive(self) -> str:
        """For the kubelet: what is wrong with the process, if anything. A standby is alive."""
        if self._kopf is None or self._stop.is_set():
            return ""
        if self._kopf.done():
            return "kopf has ended"
        missing = self._watching - {task.get_name() for task in asyncio.all_tasks() if not task.done()}
        if not missing:
            self._all_watching_by = 0
        elif time.monotonic() > self._all_watching_by:
            return f"watches are gone: {', '.join(sorted(missing))}"
        lag, kind = self._store.lag()
        if lag > 2 * self._settings.watch_lag_limit_seconds:
            return f"the watch of {kind} is dead"
        return ""
