"""Is what lives what is wanted? A digest for our own changes, `covers` for everybody else's.

The digest annotation tells when the desired object changed, also when a field was dropped from it. `covers` tells when
somebody changed or removed what we set. Together they see all that a server-side apply can repair; what others add
stays. Forgiving where the API server rewrites: absent means zero, quantities compare by value, lists by their merge
keys.
"""

import hashlib
from typing import Any

import orjson

from moorage.api.names import DIGEST
from moorage.desired.meta import Manifest
from moorage.desired.quantity import same

_QUANTITY_MAPS = {"requests", "limits"}
_QUANTITIES = {"sizeLimit"}
# Which field tells the items of a list apart. Lists that are not here are compared item by item.
_KEYS: dict[str, tuple[str, ...]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "volumes": ("name",),
    "env": ("name",),
    "imagePullSecrets": ("name",),
    "volumeMounts": ("mountPath",),
    "ownerReferences": ("uid",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    "hostAliases": ("ip",),
}
# The same for people: what an entry must have to be told apart.
KEYED = {field: " and ".join(keys) for field, keys in _KEYS.items()} | {"ports": "containerPort"}


def key_of(field: str, item: Any) -> tuple[str, ...] | None:
    """What tells an item of the list `field` from the others; None where the list has no such key."""
    if not isinstance(item, dict):
        return None
    if field == "ports":
        port = item.get("containerPort", item.get("port"))
        return (str(port), str(item.get("protocol") or "TCP")) if port is not None else None
    if field not in _KEYS:
        return None
    values = [item.get(key) for key in _KEYS[field]]
    return None if None in values else tuple(map(str, values))


def digest(value: Any) -> str:
    """Of plain data, the same for ever: 128 bits of SHA-256 over JSON with sorted keys. Raises TypeError for what no
    JSON that Kubernetes takes can hold."""
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]


def stamp(obj: Manifest) -> Manifest:
    """The object with its own digest as an annotation."""
    annotations = {k: v for k, v in (obj["metadata"].get("annotations") or {}).items() if k != DIGEST}
    bare = {**obj, "metadata": {**obj["metadata"], "annotations": annotations}}
    return {**bare, "metadata": {**bare["metadata"], "annotations": {**annotations, DIGEST: digest(bare)}}}


def covers(live: Any, desired: Any) -> bool:
    """Whether an apply of `desired` would find nothing to do in `live`."""
    return _covers(live, desired, "")


def _covers(live: Any, desired: Any, field: str) -> bool:
    # Every child is compared after a start, field by field: what is most frequent comes first.
    if type(desired) is str and desired:
        return bool(live == desired) or (field in _QUANTITIES and same(live, desired))
    if _is_zero(desired):
        # The server leaves zero values out; a nested {} or [] is there or not as it pleases. But 0 is not 3.
        return _is_zero(live) or isinstance(desired, dict | list) or desired is None
    if isinstance(desired, dict):
        if not isinstance(live, dict):
            return False
        if field in _QUANTITY_MAPS:
            return all(same(live.get(key), wanted) for key, wanted in desired.items())
        return all(_covers(live.get(key), wanted, key) for key, wanted in desired.items())
    if isinstance(desired, list):
        return isinstance(live, list) and _covers_list(live, desired, field)
    if field in _QUANTITIES:
        return same(live, desired)
    return bool(live == desired) and isinstance(live, bool) == isinstance(desired, bool)


def _covers_list(live: list[Any], desired: list[Any], field: str) -> bool:
    keys = [key_of(field, item) for item in desired]
    theirs = [key_of(field, item) for item in live]
    if keys == theirs or None in keys or len(set(keys)) < len(keys):
        return len(live) == len(desired) and all(_covers(a, b, "") for a, b in zip(live, desired, strict=True))
    by_key = dict(zip(theirs, live, strict=True))
    return all(_covers(by_key.get(key), item, "") for key, item in zip(keys, desired, strict=True))


def _is_zero(value: Any) -> bool:
    """null, "", [], {}, false and 0."""
    return not value
