"""Every kind listed again: once before anything starts, then every few minutes.

kopf never tells of objects that vanished while a watch was down, and has no signal for "all is known". So our own list
comes first, and later lists prune what watches missed. That a watch is dead shows here and in `Store.lag`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import structlog

from moorage import telemetry
from moorage.kube.client import Client
from moorage.kube.errors import ApiError, Forbidden, NotFound
from moorage.kube.kinds import CHILDREN, OWNERS, POD_MONITOR, Key, Kind, key_of
from moorage.reconcile.queue import WorkQueue
from moorage.reconcile.store import Store
from moorage.reconcile.triggers import keys_for

log = structlog.get_logger()

CHILD_SELECTOR = "app.kubernetes.io/managed-by=moorage"


class Resync:
    def __init__(
        self, client: Client, store: Store, queue: WorkQueue, namespaces: Sequence[str], *, pod_monitors: bool
    ) -> None:
        self._client, self._store, self._queue = client, store, queue
        self._namespaces = tuple(namespaces)
        self._look_for_pod_monitors = pod_monitors
        self.pod_monitors = False
        """Whether the cluster knows PodMonitors: they may come and go with another installation."""

    async def once(self) -> None:
        """List all, take it in, and enqueue every resource of ours: what is as it should be costs nothing."""
        with telemetry.RESYNC_DURATION.time():
            # Children first: a resource whose children are not known yet would have them applied again.
            for kind in CHILDREN:
                await self._take(kind)
            await self._take_pod_monitors()
            for kind in OWNERS:
                await self._take(kind)
        for kind in OWNERS:
            for obj in self._store.of(kind):
                self._queue.add(key_of(obj))

    async def run(self, interval: float) -> None:
        while True:
            await asyncio.sleep(interval)
            try:
                await self.once()
            except ApiError as error:
                log.warning("resync failed, trying again at the next", error=error.message)

    async def check_rights(self) -> list[str]:
        """What we may not list, in words; empty when all is well."""
        missing = []
        for kind in (*OWNERS, *CHILDREN):
            for namespace in self._namespaces or (None,):
                try:
                    await self._client.list(kind, namespace, limit=1, pages=1)
                except NotFound:
                    continue
                except ApiError as error:
                    if error.status == 403:
                        missing.append(error.message)
                    else:
                        raise
        return missing

    async def _take_pod_monitors(self) -> None:
        """A kind that may come and go with somebody else's installation, and that we may have no right to."""
        # Set once, when the answer is known: a reconcile meanwhile would remove every PodMonitor it meets.
        self.pod_monitors = self._look_for_pod_monitors and await self._found_pod_monitors()

    async def _found_pod_monitors(self) -> bool:
        if not await self._client.serves(POD_MONITOR):
            return False
        try:
            await self._take(POD_MONITOR)
        except NotFound:
            return False
        except Forbidden as error:
            log.warning("no PodMonitors: rights are missing", error=error.message)
            return False
        return True

    async def _take(self, kind: Kind) -> None:
        selector = "" if kind in OWNERS else CHILD_SELECTOR
        for namespace in self._namespaces or (None,):
            listing = await self._client.list(kind, namespace, labels=selector)
            before = {key_of(item): self._store.get(key_of(item)) for item in listing.items}
            scope = None if namespace is None else (namespace,)
            news, vanished = self._store.replace(kind, listing.items, listing.resource_version, scope)
            if kind is not POD_MONITOR:
                for obj in news:
                    self._store.owe(obj)
            for obj in vanished:
                telemetry.RESYNC_PRUNED.labels(kind.kind).inc()
                self._enqueue(keys_for(self._store, obj, None))
            for obj in news:
                self._enqueue(keys_for(self._store, before[key_of(obj)], obj))

    def _enqueue(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self._queue.add(key)
