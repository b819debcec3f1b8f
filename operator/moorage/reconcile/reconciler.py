"""From a key to the world as it should be: workers, errors, status and Events, the same for both kinds.

Level-triggered: a reconcile reads all it needs from the store and never asks what happened. What differs between the
kinds is in `serving` and `training`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime
from typing import Any

import aiohttp
import structlog

from moorage import telemetry
from moorage.api.conditions import find, set_condition
from moorage.api.facts import InvalidSpec
from moorage.kube.client import Client
from moorage.kube.errors import ApiError, Conflict, Forbidden, NamespaceTerminating, NotFound, Transient
from moorage.kube.events import Recorder
from moorage.kube.kinds import BY_KIND, MODEL_DEPLOYMENT, Key, key_of
from moorage.reconcile.children import Children
from moorage.reconcile.eventreader import EventReader
from moorage.reconcile.outcome import Outcome
from moorage.reconcile.patience import LOOK_AGAIN, Patience
from moorage.reconcile.progress import ProgressWatch
from moorage.reconcile.queue import WorkQueue
from moorage.reconcile.replicas import Replicas
from moorage.reconcile.resync import Resync
from moorage.reconcile.servers import Servers
from moorage.reconcile.serving import Serving
from moorage.reconcile.statuses import can_wait, merge_patch, transitions
from moorage.reconcile.store import Object, Store, version
from moorage.reconcile.training import Training
from moorage.reconcile.triggers import keys_for
from moorage.settings import Settings

log = structlog.get_logger()

SLOW_RETRY = 15.0
"""Missing rights and full quotas are not mended within seconds."""

_LONGEST = 1024
"""Of the words about a fault of ours: they hold whatever an exception says."""


def utc_now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Reconciler:
    def __init__(
        self,
        client: Client,
        store: Store,
        queue: WorkQueue,
        recorder: Recorder,
        resync: Resync,
        replicas: Replicas,
        session: aiohttp.ClientSession,
        settings: Settings,
        *,
        now: Callable[[], str] = utc_now,
    ) -> None:
        self._client, self._store, self._queue, self._recorder = client, store, queue, recorder
        self._settings, self._replicas, self._now = settings, replicas, now
        self._progress = ProgressWatch(session, queue.add)
        self._patience = Patience(time.monotonic)
        children = Children(client, store)

        both = {there: settings.defaults(pod_monitors=there) for there in (False, True)}

        def defaults() -> Any:
            wanted = settings.pod_monitors
            return both[wanted == "Enabled" or (wanted == "Auto" and resync.pod_monitors)]

        events = EventReader(client)
        self._serving = Serving(store, children, replicas, Servers(session, queue.add), events, defaults)
        self._training = Training(client, store, children, self._progress, events, defaults)

    def loops(self) -> Iterator[tuple[str, Coroutine[Any, Any, None]]]:
        """What has to run for the length of a leadership, with names for the log."""
        for number in range(self._settings.workers):
            yield f"worker {number}", self._work()
        yield "progress", self._progress.run(self._settings.progress_interval_seconds)

    async def _work(self) -> None:
        while True:
            key = await self._queue.get()
            try:
                with (
                    structlog.contextvars.bound_contextvars(kind=key.kind, namespace=key.namespace, name=key.name),
                    telemetry.RECONCILE_DURATION.labels(key.kind).time(),
                ):
                    await self._try(key)
            finally:
                self._queue.done(key)
            # Where all is as it should be nothing above has waited for anybody, and thousands of looks in a row would
            # leave no turn to the lease, to probes and watches.
            await asyncio.sleep(0)

    async def _try(self, key: Key) -> None:
        """One reconcile; whatever goes wrong becomes a later try, or nothing where a try is no use."""
        try:
            async with asyncio.timeout(self._settings.reconcile_timeout_seconds):
                again = await self.reconcile(key)
        except NamespaceTerminating:
            self._queue.forget(key)
        except Conflict as error:
            self._failed(key, "Conflict", error.message, quiet=True)
        except Transient as error:
            self._failed(key, error.reason or "Transient", error.message, at_least=error.retry_after or 0)
        except ApiError as error:
            slow = SLOW_RETRY if isinstance(error, Forbidden) else 1
            self._failed(key, type(error).__name__, error.message, at_least=slow)
        except TimeoutError:
            self._failed(key, "Timeout", f"took longer than {self._settings.reconcile_timeout_seconds:.0f} s")
        except Exception as error:
            log.exception("reconcile broke")
            await self._confess(key, error)
            self._failed(key, type(error).__name__, str(error), at_least=1, quiet=True)
        else:
            self._queue.forget(key)
            if again is not None:
                self._queue.add_after(key, again)

    def _failed(self, key: Key, reason: str, message: str, *, at_least: float = 0, quiet: bool = False) -> None:
        telemetry.RECONCILE_ERRORS.labels(key.kind, reason).inc()
        delay = self._queue.retry(key, at_least)
        (log.debug if quiet else log.warning)(
            "reconcile failed", reason=reason, error=message, again_in=round(delay, 2)
        )

    async def reconcile(self, key: Key) -> float | None:
        """Make it so; the seconds until the next look, if one is needed that no event brings."""
        obj = self._store.get(key)
        if obj is None:
            self._training.leave(key)
            self._serving.leave(key)
            self._patience.told(key)
            return None
        if "deletionTimestamp" in obj["metadata"]:
            # Its children are the garbage collector's now: to make them again would be a fight.
            return None
        try:
            kind = self._serving if key.kind == MODEL_DEPLOYMENT.kind else self._training
            outcome = await kind.reconcile(key, obj, self._now())
        except InvalidSpec as error:
            outcome = Outcome(_unreadable(obj, error, self._now()))
        wait = self._patience_with(key, obj, outcome.status)
        if not wait:
            await self._tell(obj, outcome.status)
            self._patience.told(key)
        if outcome.failed is not None:
            raise outcome.failed
        return min((delay for delay in (min(wait, LOOK_AGAIN), outcome.again) if delay), default=None)

    def _patience_with(self, key: Key, obj: Object, status: dict[str, Any]) -> float:
        """Seconds for which this status need not be written yet."""
        old = obj.get("status") or {}
        if old == status or not can_wait(old, status):
            return 0.0
        headline = find(status.get("conditions"), _summary(obj)) or {}
        return self._patience.left(key, ended=headline.get("status") == "True")

    async def _confess(self, key: Key, error: Exception) -> None:
        """A fault of ours is not for the log alone: who waits for this resource has to hear of it."""
        obj = self._store.get(key)
        status = _broken(obj, error, self._now()) if obj is not None else None
        if obj is None or status is None:
            return
        try:
            async with asyncio.timeout(self._settings.reconcile_timeout_seconds):
                await self._tell(obj, status)
        except Exception as another:
            log.warning("the status cannot be written either", error=str(another))

    async def _tell(self, obj: Object, status: dict[str, Any]) -> None:
        """One patch of what changed, and nothing when nothing did."""
        old = obj.get("status") or {}
        patch = merge_patch(old, status)
        if not patch:
            return
        key = key_of(obj)
        # With the version we judged by: the status of one life must not land on the next one of the same name.
        body = {"metadata": {"resourceVersion": obj["metadata"]["resourceVersion"]}, "status": patch}
        try:
            answer = await self._client.patch_status(BY_KIND[key.kind], key.namespace, key.name, body)
        except NotFound:
            return  # it was deleted while we worked on it
        if self._store.learn(answer):
            # The watch's echo will be no news any more, so whoever follows this resource hears of it from here.
            for follower in set(keys_for(self._store, obj, answer)) - {key}:
                self._queue.add(follower)
        if version(answer) == version(obj):
            log.warning("a status is not stored as it was sent", fields=sorted(patch))
        for told in transitions(old, status):
            log.info("turned", reason=told.reason, note=told.note)
            await self._recorder.record(obj, told.type, told.reason, told.note, told.action)


def _unreadable(obj: Object, error: InvalidSpec, now: str) -> dict[str, Any]:
    """The schema let it pass and we cannot read it: written for another version of the operator."""
    values = {_summary(obj): "Unknown", "Stalled": "True"}
    return _with(obj, values, error.reason, error.message, now)


def _broken(obj: Object, error: Exception, now: str) -> dict[str, Any] | None:
    """Not final: it is tried again. None where this generation is known to be well, and goes on being so."""
    told = find((obj.get("status") or {}).get("conditions"), _summary(obj)) or {}
    if told.get("status") == "True" and told.get("observedGeneration") == obj["metadata"].get("generation", 0):
        return None
    said = f"the operator failed and tries again; its log has the details ({type(error).__name__}: {error})"
    return _with(obj, {_summary(obj): "Unknown"}, "InternalError", said[:_LONGEST], now)


def _summary(obj: Object) -> str:
    return "Ready" if obj["kind"] == MODEL_DEPLOYMENT.kind else "Succeeded"


def _with(obj: Object, values: dict[str, str], reason: str, message: str, now: str) -> dict[str, Any]:
    status = dict(obj.get("status") or {})
    generation = obj["metadata"].get("generation", 0)
    conditions = status.get("conditions") or []
    for type_, value in values.items():
        conditions = set_condition(
            conditions, type=type_, status=value, reason=reason, message=message, generation=generation, now=now
        )
    return {**status, "observedGeneration": generation, "conditions": conditions}
