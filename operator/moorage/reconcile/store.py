"""What the cluster looked like when we last heard of it: every watched object by key, slimmed.

Three sources feed it: watch events, our own lists, and the answers to our own writes. The newest resourceVersion of an
object wins, whichever way it came. The store also knows what each watch still owes us, which is how a dead watch is
noticed. It does no I/O and holds nothing that a list cannot bring back.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from moorage.kube.kinds import Key, Kind, key_of

Object = dict[str, Any]
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


def version(obj: Object) -> int:
    """The resourceVersion as a number. Versions compare only within one kind of one cluster."""
    return int(obj["metadata"].get("resourceVersion") or 0)


def controller_uid(obj: Object) -> str:
    for reference in obj["metadata"].get("ownerReferences") or ():
        if reference.get("controller"):
            return str(reference["uid"])
    return ""


def slim(obj: Object) -> Object:
    """Without what nobody reads: managedFields alone are 40 % of a Deployment."""
    meta = {field: value for field, value in obj["metadata"].items() if field != "managedFields"}
    annotations = meta.get("annotations")
    if annotations and LAST_APPLIED in annotations:
        meta["annotations"] = {name: value for name, value in annotations.items() if name != LAST_APPLIED}
    return {**obj, "metadata": meta}


class Store:
    def __init__(self, *, scoped: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        """`scoped`: watches are per namespace, not one for the cluster."""
        self._objects: dict[str, dict[str, dict[str, Object]]] = defaultdict(lambda: defaultdict(dict))
        self._by_controller: dict[str, set[Key]] = defaultdict(set)
        self._gone: dict[Key, int] = {}
        self._scoped, self._clock = scoped, clock
        self._watched: dict[tuple[str, str], int] = {}
        self._owed: dict[tuple[str, str], tuple[int, float]] = {}

    def get(self, key: Key) -> Object | None:
        return self._objects[key.kind][key.namespace].get(key.name)

    def of(self, kind: Kind, namespace: str | None = None) -> Iterator[Object]:
        spaces = self._objects[kind.kind]
        for name in (namespace,) if namespace is not None else tuple(spaces):
            yield from tuple(spaces[name].values()) if name in spaces else ()

    def controlled_by(self, uid: str) -> list[Object]:
        found = (self.get(key) for key in self._by_controller.get(uid, ()))
        return [obj for obj in found if obj is not None]

    def put(self, obj: Object) -> bool:
        """Keep it unless something as new or newer is known; whether it was kept."""
        key, new = key_of(obj), version(obj)
        known = self.get(key)
        if known is not None and version(known) >= new:
            return False
        if self._gone.get(key, -1) >= new:
            return False  # the answer to a write that came in after the deletion
        if known is not None:
            self._unlink(key, known)
        self._gone.pop(key, None)
        self._objects[key.kind][key.namespace][key.name] = slim(obj)
        if uid := controller_uid(obj):
            self._by_controller[uid].add(key)
        return True

    def remove(self, obj: Object) -> None:
        """It was deleted. An object of the same name that is newer stays."""
        key, last = key_of(obj), version(obj)
        known = self.get(key)
        if known is not None and known["metadata"]["uid"] != obj["metadata"]["uid"] and version(known) > last:
            return
        if known is not None:
            self._drop(key, known)
        self._gone[key] = max(last, self._gone.get(key, -1))

    def replace(
        self, kind: Kind, items: Iterable[Object], list_version: int, namespaces: Collection[str] | None = None
    ) -> tuple[list[Object], list[Object]]:
        """Take in a whole list: what was news, and what we held and the list no longer has.

        `namespaces` is what the list covered, None for all. What is newer than the list stays.
        """
        listed = set()
        news = []
        for item in items:
            listed.add(key_of(item))
            if self.put(item):
                news.append(item)
        vanished = []
        for space in tuple(self._objects[kind.kind]) if namespaces is None else namespaces:
            for name, obj in tuple(self._objects[kind.kind][space].items()):
                key = Key(kind.kind, space, name)
                if key not in listed and version(obj) <= list_version:
                    self._drop(key, obj)
                    vanished.append(obj)
        for key in [key for key, last in self._gone.items() if key.kind == kind.kind and last < list_version]:
            del self._gone[key]
        return news, vanished

    # What watches owe us. A write's answer or a list shows a change that the watch of its kind has to bring, too.

    def owe(self, obj: Object) -> None:
        scope = self._scope(obj)
        if version(obj) > self._watched.get(scope, -1):
            since = self._owed[scope][1] if scope in self._owed else self._clock()
            self._owed[scope] = (max(version(obj), self._owed.get(scope, (0, 0.0))[0]), since)

    def watched(self, obj: Object) -> None:
        """A watch brought this."""
        scope = self._scope(obj)
        self._watched[scope] = max(version(obj), self._watched.get(scope, -1))
        if scope in self._owed:
            if self._owed[scope][0] <= self._watched[scope]:
                del self._owed[scope]
            else:
                self._owed[scope] = (self._owed[scope][0], self._clock())  # it lives, it is only behind

    def lag(self) -> tuple[float, str]:
        """The longest a watch has been silent while it owed us a change, and of which kind."""
        now = self._clock()
        return max(((now - since, kind) for (kind, _), (_, since) in self._owed.items()), default=(0.0, ""))

    def _scope(self, obj: Object) -> tuple[str, str]:
        return obj["kind"], obj["metadata"].get("namespace", "") if self._scoped else ""

    def _unlink(self, key: Key, obj: Object) -> None:
        uid = controller_uid(obj)
        if uid in self._by_controller:
            self._by_controller[uid].discard(key)
            if not self._by_controller[uid]:
                del self._by_controller[uid]

    def _drop(self, key: Key, obj: Object) -> None:
        self._unlink(key, obj)
        del self._objects[key.kind][key.namespace][key.name]
