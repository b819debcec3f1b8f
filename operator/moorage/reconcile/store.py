"""What the cluster looked like when we last heard of it: every watched object by key, slimmed.

Three sources feed it: watch events, our own lists, and the answers to our own writes. The newest resourceVersion of an
object wins, whichever way it came. The store also knows what each watch still owes us, which is how a dead watch is
noticed. It does no I/O and holds nothing that a list cannot bring back.

Objects are kept packed: a tenth of the memory of dicts, for forty microseconds a look. So what it gives out is the
caller's own.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

from moorage.kube.kinds import POD, WATCHED, Key, Kind, key_of
from moorage.reconcile.indexes import INDEXES, IndexKey
from moorage.reconcile.packing import Packed, Packer

Object = dict[str, Any]
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"

# Of a pod's spec: why it waits, and what an end means. What it runs is in its owner's template.
_POD_SPEC = ("nodeName", "restartPolicy", "volumes")


def version(obj: Object) -> int:
    """The resourceVersion as a number. Versions compare only within one kind of one cluster."""
    return int(obj["metadata"].get("resourceVersion") or 0)


def slim(obj: Object) -> Object:
    """Without what nobody reads: managedFields alone are 40 % of a Deployment."""
    meta = {field: value for field, value in obj["metadata"].items() if field != "managedFields"}
    annotations = meta.get("annotations")
    if annotations and LAST_APPLIED in annotations:
        meta["annotations"] = {name: value for name, value in annotations.items() if name != LAST_APPLIED}
    found = {**obj, "metadata": meta}
    if obj["kind"] == POD.kind:
        spec = obj.get("spec") or {}
        found["spec"] = {field: spec[field] for field in _POD_SPEC if field in spec}
    return found


class _Held(NamedTuple):
    version: int
    uid: str
    indexed: tuple[IndexKey, ...]
    wish: Packed
    """All but status and resourceVersion."""
    status: Packed | None

    def read(self) -> Object:
        obj: Object = self.wish.unpack()
        obj["metadata"]["resourceVersion"] = str(self.version)
        if self.status is not None:
            obj["status"] = self.status.unpack()
        return obj


class Store:
    def __init__(self, *, scoped: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        """`scoped`: watches are per namespace, not one for the cluster."""
        self._objects: dict[str, dict[str, dict[str, _Held]]] = {}
        self._packer = Packer()
        self._index: dict[IndexKey, set[Key]] = defaultdict(set)
        self._gone: dict[Key, int] = {}
        self._scoped, self._clock = scoped, clock
        self._watched: dict[tuple[str, str], int] = {}
        self._owed: dict[tuple[str, str], tuple[int, float]] = {}

    def get(self, key: Key) -> Object | None:
        held = self._held(key)
        return None if held is None else held.read()

    def wish(self, key: Key) -> int | None:
        """Stands for all of an object but its status: the same number means the same wish, within this process."""
        held = self._held(key)
        return None if held is None else hash((held.uid, held.wish.mark))

    def of(self, kind: Kind, namespace: str | None = None) -> Iterator[Object]:
        for key in self.keys(kind, namespace):
            found = self.get(key)
            if found is not None:
                yield found

    def keys(self, kind: Kind, namespace: str | None = None) -> list[Key]:
        spaces = self._objects.get(kind.kind, {})
        chosen = (namespace,) if namespace is not None else tuple(spaces)
        return [Key(kind.kind, space, name) for space in chosen if space in spaces for name in spaces[space]]

    def keys_by(self, index: str, *values: str) -> list[Key]:
        """What an index of `indexes` has under these values."""
        return sorted(self._index.get((index, *values), ()))

    def by(self, index: str, *values: str) -> list[Object]:
        found = (self.get(key) for key in self.keys_by(index, *values))
        return [obj for obj in found if obj is not None]

    def controlled_by(self, uid: str) -> list[Object]:
        return self.by("controller", uid)

    def put(self, obj: Object) -> bool:
        """Keep it unless something as new or newer is known; whether it was kept."""
        key, new = key_of(obj), version(obj)
        known = self._held(key)
        if known is not None and known.version >= new:
            return False
        if self._gone.get(key, -1) >= new:
            return False  # the answer to a write that came in after the deletion
        if known is not None:
            self._unlink(key, known)
        self._gone.pop(key, None)
        held = self._pack(obj, new)
        self._objects.setdefault(key.kind, {}).setdefault(key.namespace, {})[key.name] = held
        for entry in held.indexed:
            self._index[entry].add(key)
        return True

    def _pack(self, obj: Object, new: int) -> _Held:
        slimmed, kind = slim(obj), obj["kind"]
        status = slimmed.pop("status", None)
        slimmed["metadata"].pop("resourceVersion", None)
        indexed = tuple(found for index in INDEXES for found in index(obj))
        told = self._packer.pack(f"{kind}/status", status) if status else None
        return _Held(new, obj["metadata"]["uid"], indexed, self._packer.pack(kind, slimmed), told)

    def learn(self, obj: Object) -> bool:
        """Keep what an answer showed before a watch did: the watch of its kind has to bring it, too. Whether it was
        news."""
        if not self.put(obj):
            return False
        if obj["kind"] in WATCHED:
            self.owe(obj)
        return True

    def remove(self, obj: Object) -> None:
        """It was deleted. An object of the same name that is newer stays."""
        key, last = key_of(obj), version(obj)
        known = self._held(key)
        if known is not None and known.uid != obj["metadata"]["uid"] and known.version > last:
            return
        if known is not None:
            self._drop(key, known)
        self._gone[key] = max(last, self._gone.get(key, -1))

    def prune(
        self, kind: Kind, listed: Collection[Key], list_version: int, namespace: str | None = None
    ) -> list[Object]:
        """After a whole list: drop what we held and the list no longer has, and say what that was.

        `namespace` is what the list covered, None for all. What is newer than the list stays.
        """
        vanished = []
        for key in self.keys(kind, namespace):
            held = self._held(key)
            if held is not None and key not in listed and held.version <= list_version:
                self._drop(key, held)
                vanished.append(held.read())
        for key in [key for key, last in self._gone.items() if key.kind == kind.kind and last < list_version]:
            del self._gone[key]
        return vanished

    # What watches owe us. A write's answer or a list shows a change that the watch of its kind has to bring, too.

    def owe(self, obj: Object) -> None:
        scope = self._scope(obj)
        if version(obj) > self._watched.get(scope, -1):
            since = self._owed[scope][1] if scope in self._owed else self._clock()
            self._owed[scope] = (max(version(obj), self._owed.get(scope, (0, 0.0))[0]), since)

    def watched(self, obj: Object) -> None:
        """A watch brought this."""
        self._reached(self._scope(obj), version(obj))

    def reached(self, kind: Kind, namespace: str | None, version: int) -> None:
        """A watch is known to be there: it begins at the list of this version, or a bookmark said so."""
        self._reached((kind.kind, namespace or ""), version)

    def _reached(self, scope: tuple[str, str], version: int) -> None:
        self._watched[scope] = max(version, self._watched.get(scope, -1))
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

    def _held(self, key: Key) -> _Held | None:
        return self._objects.get(key.kind, {}).get(key.namespace, {}).get(key.name)

    def _unlink(self, key: Key, held: _Held) -> None:
        for entry in held.indexed:
            self._index[entry].discard(key)
            if not self._index[entry]:
                del self._index[entry]

    def _drop(self, key: Key, held: _Held) -> None:
        self._unlink(key, held)
        spaces = self._objects[key.kind]
        del spaces[key.namespace][key.name]
        if not spaces[key.namespace]:
            del spaces[key.namespace]
