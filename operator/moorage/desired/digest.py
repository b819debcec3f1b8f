"""Is what lives what is wanted? A digest for our own changes, `covers` for everybody else's.

The digest annotation tells when the desired object changed, also when a field was dropped from it. `covers` tells when
somebody changed or removed what we set. Together they see all that a server-side apply can repair; what others add
stays. Forgiving where the API server rewrites: absent means zero, quantities compare by value, lists by their merge
keys.
"""

import hashlib
import json
from typing import Any

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
    keys = _KEYS.get(field)
    if keys is None or any(item.get(key) is None for key in keys):
        return None
    return tuple(str(item[key]) for key in keys)


def digest(value: Any) -> str:
    """Of plain data, the same for ever: 128 bits of SHA-256 over JSON with sorted keys."""
    plain = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(plain.encode()).hexdigest()[:32]


def stamp(obj: Manifest) -> Manifest:
    """The object with its own digest as an annotation."""
    annotations = {k: v for k, v in (obj["metadata"].get("annotations") or {}).items() if k != DIGEST}
    bare = {**obj, "metadata": {**obj["metadata"], "annotations": annotations}}
    return {**bare, "metadata": {**bare["metadata"], "annotations": {**annotations, DIGEST: digest(bare)}}}


def covers(live: Any, desired: Any) -> bool:
    """Whether an apply of `desired` would find nothing to do in `live`."""
    return _covers(live, desired, "")


def _covers(live: Any, desired: Any, field: str) -> bool:
    if _is_zero(desired):
        # The server leaves zero values out; a nested {} or [] is there or not as it pleases. But 0 is not 3.
        return _is_zero(live) or isinstance(desired, dict | list) or desired is None
    if field in _QUANTITIES:
        return same(live, desired)
    if isinstance(desired, dict):
        if not isinstance(live, dict):
            return False
        if field in _QUANTITY_MAPS:
            return all(same(live.get(key), wanted) for key, wanted in desired.items())
        return all(_covers(live.get(key), wanted, key) for key, wanted in desired.items())
    if isinstance(desired, list):
        return isinstance(live, list) and _covers_list(live, desired, field)
    return bool(live == desired) and isinstance(live, bool) == isinstance(desired, bool)


def _covers_list(live: list[Any], desired: list[Any], field: str) -> bool:
    keys = [key_of(field, item) for item in desired]
    if None in keys or len(set(keys)) < len(keys):
        return len(live) == len(desired) and all(_covers(a, b, "") for a, b in zip(live, desired, strict=True))
    by_key = {key_of(field, item): item for item in live}
    return all(_covers(by_key.get(key), item, "") for key, item in zip(keys, desired, strict=True))


def _is_zero(value: Any) -> bool:
    return value is None or value == "" or value is False or value == [] or value == {} or _is_zero_number(value)


def _is_zero_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == 0
