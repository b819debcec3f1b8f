"""Everything heard of the cluster goes through here: into the store, and as keys into the queue.

Three ways in, one meaning: a watch's event, a whole list, and what was known already becomes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from moorage import telemetry
from moorage.desired.meta import MANAGED_BY
from moorage.kube.client import Client
from moorage.kube.errors import Expired
from moorage.kube.kinds import (
    CONFIG_MAP,
    DEPLOYMENT,
    GRANDCHILDREN,
    OWNERS,
    POD_DISRUPTION_BUDGET,
    SERVICE,
    Key,
    Kind,
    key_of,
)
from moorage.reconcile.queue import WorkQueue
from moorage.reconcile.store import Store
from moorage.reconcile.triggers import OWNER_KINDS, keys_for

SELECTOR = f"{MANAGED_BY}=moorage"
"""Of all that is watched but the resources themselves."""

# A rollout moves each pod and its owners five times within moments.
_ROLLING = {kind.kind for kind in (*GRANDCHILDREN, DEPLOYMENT)}
# Nobody asks for the status of these.
_PLAIN = {kind.kind for kind in (SERVICE, CONFIG_MAP, POD_DISRUPTION_BUDGET)}


class Intake:
    def __init__(self, client: Client, store: Store, queue: WorkQueue) -> None:
        self._client, self._store, self._queue = client, store, queue
        self._brought: set[Key] = set()
        self.relisted: Callable[[], None] = lambda: None
        """Called when kopf listed a kind anew: it does not tell what vanished meanwhile."""

    def event(self, type_: str | None, obj: dict[str, Any]) -> None:
        """One event of a watch; no type is kopf's way to say that the object was in its list."""
        telemetry.WATCH_EVENTS.labels(obj["kind"], (type_ or "listed").lower()).inc()
        key, kind = key_of(obj), obj["kind"]
        if kind in OWNER_KINDS:
            self._notice_relist(type_, key)
        before, wish = self._before(obj), self._store.wish(key)
        if type_ == "DELETED":
            self._store.remove(obj)
            changed = self._store.wish(key) is None
            keys = keys_for(self._store, before or obj, None)
        else:
            changed = self._store.put(obj)
            keys = keys_for(self._store, before, obj)
        self._store.watched(obj)
        moved = type_ == "DELETED" or self._store.wish(key) != wish
        if changed and (moved or kind not in _PLAIN):
            self._enqueue(keys, soon=kind in _ROLLING and (not moved or kind != DEPLOYMENT.kind))

    def _notice_relist(self, type_: str | None, key: Key) -> None:
        if type_ is None and key in self._brought:
            self.relisted()
        if type_ == "DELETED":
            self._brought.discard(key)
        else:
            self._brought.add(key)

    def _before(self, obj: dict[str, Any]) -> dict[str, Any] | None:
        """As it was known; of children nobody asks."""
        return self._store.get(key_of(obj)) if obj["kind"] in OWNER_KINDS else None

    async def list(self, kind: Kind, namespace: str | None) -> int:
        """Take in all there is of a kind, drop what is no longer there, and say of which version the list is."""
        for attempt in range(3):
            try:
                return await self._list(kind, namespace)
            except Expired:
                if attempt == 2:
                    raise
        raise AssertionError("unreachable")

    async def _list(self, kind: Kind, namespace: str | None) -> int:
        listed: set[Key] = set()
        list_version = 0
        async for page in self._client.pages(kind, namespace, labels="" if kind in OWNERS else SELECTOR):
            # The first page says when; what the later ones bring is of that moment, too.
            list_version = list_version or page.resource_version
            for obj in page.items:
                listed.add(key_of(obj))
                before = self._before(obj)
                if self._store.learn(obj):
                    self._enqueue(keys_for(self._store, before, obj))
        for obj in self._store.prune(kind, listed, list_version, namespace):
            telemetry.RESYNC_PRUNED.labels(kind.kind).inc()
            self._enqueue(keys_for(self._store, obj, None))
        return list_version

    def _enqueue(self, keys: Iterable[Key], *, soon: bool = False) -> None:
        for key in keys:
            (self._queue.add_soon if soon else self._queue.add)(key)
