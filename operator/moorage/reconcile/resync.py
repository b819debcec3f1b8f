"""Every kind listed again: once before anything starts, then every few minutes.

The first list is what the watches go on from: a resource whose children are not known yet would have them applied
again. The later ones are for what no watch tells: kopf never says what vanished while its watch was down, and a
connection may be dead without anybody's notice. That a watch is dead shows here and in `Store.lag`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import structlog

from moorage import telemetry
from moorage.kube.client import Client
from moorage.kube.errors import ApiError, Forbidden, NotFound
from moorage.kube.kinds import CHILDREN, GRANDCHILDREN, OWNERS, POD_MONITOR, Kind
from moorage.reconcile.intake import Intake
from moorage.reconcile.queue import WorkQueue
from moorage.reconcile.store import Store

log = structlog.get_logger()

SETTLE = 2.0
"""After a break all watches come back one by one; one list is enough for all of them."""

Versions = dict[tuple[Kind, str | None], int]
"""Of which version each list was, by kind and namespace."""


class Resync:
    def __init__(
        self,
        client: Client,
        store: Store,
        queue: WorkQueue,
        intake: Intake,
        namespaces: Sequence[str],
        *,
        pod_monitors: bool,
    ) -> None:
        self._client, self._store, self._queue, self._intake = client, store, queue, intake
        self._scopes: tuple[str | None, ...] = tuple(namespaces) or (None,)
        self._look_for_pod_monitors = pod_monitors
        self.pod_monitors = False
        """Whether the cluster knows PodMonitors: they may come and go with another installation."""
        self._everyone_knows: bool | None = None
        """For which `pod_monitors` all resources have been looked at."""
        self._trouble = asyncio.Event()

    def soon(self) -> None:
        """A connection broke and stands again: what happened meanwhile, kopf's watches may have missed."""
        self._trouble.set()

    async def once(self, *, everyone: bool = True) -> Versions:
        """List all and take it in. Whoever has news in it is enqueued, or every resource of ours."""
        versions: Versions = {}
        with telemetry.RESYNC_DURATION.time():
            # From the leaves to the owners, so that a resource is never seen before what it owns.
            for kind in (*GRANDCHILDREN, *CHILDREN):
                versions |= await self._take(kind)
            await self._take_pod_monitors()
            for kind in OWNERS:
                versions |= await self._take(kind)
        if everyone or self.pod_monitors != self._everyone_knows:
            for kind in OWNERS:
                for key in self._store.keys(kind):
                    self._queue.add(key)
            self._everyone_knows = self.pod_monitors
        return versions

    async def run(self, interval: float) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval):
                    await self._trouble.wait()
                    await asyncio.sleep(SETTLE)
            self._trouble.clear()
            try:
                await self.once(everyone=False)
            except ApiError as error:
                log.warning("resync failed, trying again at the next", error=error.message)

    async def check_rights(self) -> list[str]:
        """What we may not list, in words; empty when all is well."""
        missing = []
        for kind in (*OWNERS, *CHILDREN, *GRANDCHILDREN):
            for scope in self._scopes:
                try:
                    await anext(self._client.pages(kind, scope, limit=1))
                except NotFound:
                    continue
                except ApiError as error:
                    if error.status == 403:
                        missing.append(error.message)
                    else:
                        raise
        return missing

    async def _take(self, kind: Kind) -> Versions:
        return {(kind, scope): await self._intake.list(kind, scope) for scope in self._scopes}

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
