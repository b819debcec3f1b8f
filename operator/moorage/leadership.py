"""The time for which this process leads: what runs then, in which order it begins, and what ends it.

Every kind is listed before a worker or kopf starts, since a resource seen before its children would have them applied
again. None of the tasks here ends by itself; when one does, the process has to end, and the next one starts clean.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import aiohttp
import kopf
import structlog

from moorage import handlers, telemetry
from moorage.kube.client import Client
from moorage.kube.errors import ApiError
from moorage.kube.events import Recorder
from moorage.kube.kinds import OWNERS
from moorage.kube.lease import Election, LeaseLost
from moorage.kube.watch import Watch
from moorage.reconcile.intake import SELECTOR, Intake
from moorage.reconcile.queue import WorkQueue
from moorage.reconcile.reconciler import Reconciler
from moorage.reconcile.replicas import Replicas
from moorage.reconcile.resync import Resync, Versions
from moorage.reconcile.store import Store
from moorage.scaling.loop import ScalingLoop
from moorage.scaling.prometheus import Prometheus
from moorage.settings import Settings

log = structlog.get_logger()

KOPF_GRACE = 2.0
"""How long the end waits for kopf, which takes 5.5 s to stop and may hang: it writes nothing, so nothing is lost."""

WATCHES_START = 60.0
"""kopf looks around and retries before it watches; after this time something is wrong."""

CHECK_AFTER, CHECK_EVERY = 10.0, 2.0
LIST_AGAIN = 5.0


class Trouble(Exception):
    """A reason to end the process that the log should state in one line."""


class Leadership:
    def __init__(
        self,
        client: Client,
        election: Election,
        settings: Settings,
        identity: str,
        take_signals: Callable[[], None],
    ) -> None:
        self._client, self._election, self._settings, self._identity = client, election, settings, identity
        self._take_signals = take_signals
        self.store = Store(scoped=bool(settings.namespaces))
        self._queue = WorkQueue()
        self._intake = Intake(client, self.store, self._queue)
        self._watches: list[Watch] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._kopf: asyncio.Task[None] | None = None
        self._kopf_stop = asyncio.Event()
        self._watching: set[str] = set()
        self._all_watching_by = 0.0

    async def serve(self, stop: asyncio.Event) -> None:
        """Until somebody says stop. Raises Trouble or LeaseLost when it has to end before."""
        telemetry.LEADER.set(1)
        self._client.may_write = lambda: self._election.fresh
        # Every long-lived task of ours begins before kopf's: on its way out kopf cancels all that came after it.
        self._spawn("stop", _wait(stop))
        self._spawn("lease", self._election.hold())
        settings = self._settings
        resync = Resync(
            self._client,
            self.store,
            self._queue,
            self._intake,
            settings.namespaces,
            pod_monitors=settings.pod_monitors != "Disabled",
        )
        async with aiohttp.ClientSession() as session:
            listed = asyncio.create_task(self._first_list(resync), name="first list")
            await asyncio.wait({listed, *self._tasks}, return_when=asyncio.FIRST_COMPLETED)
            if listed.done():
                await self._start(resync, listed.result(), session)
                log.info("serving", workers=settings.workers)
            else:
                listed.cancel()
            await self._until_something_ends(stop)

    async def _start(self, resync: Resync, versions: Versions, session: aiohttp.ClientSession) -> None:
        settings = self._settings
        self._intake.relisted = resync.soon
        for (kind, scope), since in versions.items():
            if kind not in OWNERS:
                relist = partial(self._intake.list, kind, scope)
                watch = Watch(
                    self._client, kind, scope, SELECTOR,
                    since=since, relist=relist, take=self._intake.event,
                    reached=partial(self.store.reached, kind, scope), mended=resync.soon,
                )  # fmt: skip
                self._watches.append(watch)
                self._spawn(f"watch of {watch.name}", watch.run())
        replicas = Replicas(self.store, self._queue, measuring=bool(settings.prometheus_url))
        recorder = Recorder(self._client, self._identity)
        reconciler = Reconciler(self._client, self.store, self._queue, recorder, resync, replicas, session, settings)
        for name, loop in reconciler.loops():
            self._spawn(name, loop)
        self._spawn("resync", resync.run(settings.resync_seconds))
        if settings.prometheus_url:
            prometheus = Prometheus(session, settings.prometheus_url, settings.prometheus_timeout_seconds)
            scaling = ScalingLoop(
                prometheus,
                replicas.scaled,
                replicas.publish,
                rate_window=settings.scaling_rate_window_seconds,
                fresh=settings.scaling_fresh_seconds,
            )
            self._spawn("scaling", scaling.run(settings.scaling_interval_seconds))
        self._spawn("watch check", self._check_watches())
        await self._start_kopf()

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work, name=name))

    async def _first_list(self, resync: Resync) -> Versions:
        while True:
            try:
                missing = await resync.check_rights()
                if missing:
                    raise Trouble("rights are missing: " + "; ".join(missing))
                return await resync.once()
            except ApiError as error:
                log.warning("first list failed, trying again", error=error.message)
                await asyncio.sleep(LIST_AGAIN)

    async def _start_kopf(self) -> None:
        before = asyncio.all_tasks()
        namespaces = self._settings.namespaces
        tasks = await kopf.spawn_tasks(
            registry=handlers.registry(self._intake),
            settings=handlers.settings(),
            clusterwide=not namespaces,
            namespaces=namespaces,
            stop_flag=self._kopf_stop,
        )
        # kopf has just taken SIGTERM for itself, and its way out is not ours.
        self._take_signals()
        self._kopf = asyncio.create_task(kopf.run_tasks(tasks, ignored=before), name="kopf")
        self._watching = handlers.watcher_names(namespaces)
        self._all_watching_by = time.monotonic() + WATCHES_START

    async def _until_something_ends(self, stop: asyncio.Event) -> None:
        everything = {*self._tasks, self._kopf} if self._kopf is not None else set(self._tasks)
        done, _ = await asyncio.wait(everything, return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            return
        for task in done:
            error = None if task.cancelled() else task.exception()
            if isinstance(error, LeaseLost | Trouble):
                raise error
            raise Trouble(f"{task.get_name()} ended: {error!r}") from error

    async def wind_up(self) -> None:
        """Stop writing, then let the next one begin, then clear up."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1)
        telemetry.LEADER.set(0)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(3):
                await self._election.release()
        self._kopf_stop.set()
        if self._kopf is not None and not self._kopf.done():
            await asyncio.wait({self._kopf}, timeout=KOPF_GRACE)

    async def _check_watches(self) -> None:
        """A watch that is dead or silent ends the process: only a fresh one lists and watches anew."""
        await asyncio.sleep(CHECK_AFTER)
        while True:
            lag, kind = self.store.lag()
            telemetry.WATCH_LAG.set(lag)
            if lag > self._settings.watch_lag_limit_seconds:
                raise Trouble(f"the watch of {kind} has been silent for {lag:.0f} s while it owed us changes")
            if wrong := self.not_alive():
                raise Trouble(wrong)
            await asyncio.sleep(CHECK_EVERY)

    def not_alive(self) -> str:
        """What is wrong with the process, if anything: for the kubelet, should our own end not come to pass."""
        if self._kopf is None:
            return ""
        if self._kopf.done():
            return "kopf has ended"
        for watch in self._watches:
            if watch.broken_for > self._settings.watch_lag_limit_seconds:
                return f"the watch of {watch.name} has been broken for {watch.broken_for:.0f} s: {watch.error}"
        missing = self._watching - {task.get_name() for task in asyncio.all_tasks() if not task.done()}
        if not missing:
            self._all_watching_by = 0
        elif time.monotonic() > self._all_watching_by:
            return f"watches are gone: {', '.join(sorted(missing))}"
        lag, kind = self.store.lag()
        if lag > 2 * self._settings.watch_lag_limit_seconds:
            return f"the watch of {kind} is dead"
        return ""


async def _wait(event: asyncio.Event) -> None:
    await event.wait()
