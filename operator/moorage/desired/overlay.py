"""The user's podTemplate, merged last over the pod we made: strategic merge, as kubectl patch does it, without $patch.

Objects merge; lists of things with a name (containers, volumes, env, ports, mounts) merge by it; tolerations and
envFrom are added, since losing the GPU's toleration by adding one's own would be a trap; other lists and values are
replaced; null removes. An env entry or a volume of the same name is replaced as a whole. What would break the
operator's own work is refused in words.
"""

from typing import Any

import orjson

from moorage.api.facts import InvalidSpec
from moorage.desired.digest import KEYED, key_of
from moorage.desired.meta import MANAGED_BY, Manifest
from moorage.desired.quantity import text

_ADDED = {"tolerations", "envFrom"}
# Of these an entry is one thing or another: value or valueFrom, emptyDir or persistentVolumeClaim. Both would be
# refused.
_WHOLE = {"env", "volumes"}
_HANDLERS = {"exec", "httpGet", "tcpSocket", "grpc", "sleep"}
_RESERVED = ("MOORAGE_", "PET_")


def apply(template: Manifest, overlay: dict[str, Any] | None) -> Manifest:
    """The pod template with the user's laid over it. Ours is in canonical form, and so is the result."""
    if not overlay:
        return template
    unknown = sorted(set(overlay) - {"metadata", "spec"})
    if unknown:
        raise InvalidSpec(f"spec.podTemplate: unknown field {', '.join(unknown)}: write metadata and spec, as in a pod")
    _refuse_shapeless(overlay)
    _refuse_reserved(overlay)
    merged = _canonical(_merge(template, overlay, "podTemplate"))
    labels, wanted = (merged.get("metadata") or {}).get("labels") or {}, template["metadata"]["labels"]
    for key, value in wanted.items():
        if (key.startswith("moorage.dev/") or key == MANAGED_BY) and labels.get(key) != value:
            raise InvalidSpec(f"spec.podTemplate.metadata.labels: {key} selects the pods and must stay {value}")
    _refuse_broken(merged)
    return merged


def _canonical(template: Manifest) -> Manifest:
    return {key: canonical(value, key) for key, value in template.items()}


def canonical(value: Any, field: str = "") -> Any:
    """Plain data as a typed apply takes it: no nulls, quantities as strings, whole numbers as integers."""
    if type(value) is str:
        return value
    if isinstance(value, dict):
        if field in ("requests", "limits"):
            return {key: text(amount) for key, amount in value.items() if amount is not None}
        return {key: canonical(item, key) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [canonical(item) for item in value]
    if field == "sizeLimit":
        return text(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _merge(base: Any, over: Any, path: str) -> Any:
    field = path.rsplit(".", 1)[-1]
    if isinstance(over, dict) and (isinstance(base, dict) or base is None):
        merged = dict(base or {})
        if _HANDLERS & set(over):
            merged = {key: value for key, value in merged.items() if key not in _HANDLERS or key in over}
        for key, value in over.items():
            if value is None:
                merged.pop(key, None)
            else:
                merged[key] = _merge(merged.get(key), value, f"{path}.{key}")
        return merged
    if isinstance(over, list) and (isinstance(base, list) or base is None):
        return _merge_list(base or [], over, field, path)
    if isinstance(base, dict | list) and not isinstance(over, type(base)):
        wanted = "an object" if isinstance(base, dict) else "a list"
        raise InvalidSpec(f"spec.{path}: must be {wanted}")
    return over


def _merge_list(base: list[Any], over: list[Any], field: str, path: str) -> list[Any]:
    if field in _ADDED:
        return [*base, *(item for item in over if item not in base)]
    if not over or field not in KEYED:
        return over
    merged = {key_of(field, item): item for item in base}
    for item in over:
        if not isinstance(item, dict):
            raise InvalidSpec(f"spec.{path}: each entry must be an object")
        key = key_of(field, item)
        if key is None:
            raise InvalidSpec(f"spec.{path}: an entry lacks {KEYED[field]}: without it, it cannot be merged")
        merged[key] = _merge(None if field in _WHOLE else merged.get(key), item, path)
    return list(merged.values())


# What is read here or by `digest`; all else is the API server's to judge. A list holds what its one entry shows.
_CONTAINER: dict[str, Any] = {
    **{key: [{}] for key in ("env", "envFrom", "ports", "volumeMounts")},
    "name": str,
    "image": str,
    "resources": {"requests": {}, "limits": {}},
}
_SHAPE: dict[str, Any] = {
    "metadata": {"labels": {}, "annotations": {}},
    "spec": {
        **{key: [_CONTAINER] for key in ("containers", "initContainers")},
        **{key: [{}] for key in ("volumes", "tolerations", "imagePullSecrets", "topologySpreadConstraints")},
    },
}
_WORDS: dict[type, str] = {dict: "an object", list: "a list", str: "text"}


def _refuse_shapeless(value: Any, shape: Any = _SHAPE, path: str = "spec.podTemplate") -> None:
    """The schema lets anything pass here. null is a wish of its own: it removes."""
    if shape is None or value is None:
        return
    wanted: type = shape if isinstance(shape, type) else type(shape)
    if not isinstance(value, wanted):
        raise InvalidSpec(f"{path}: must be {_WORDS[wanted]}, as in a pod template")
    if isinstance(value, dict):
        for key, item in value.items():
            _refuse_shapeless(item, shape.get(key), f"{path}.{key}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            if item is None:
                raise InvalidSpec(f"{path}[{number}]: must be {_WORDS[type(shape[0])]}, as in a pod template")
            _refuse_shapeless(item, shape[0], f"{path}[{number}]")


def _containers(template: dict[str, Any]) -> list[dict[str, Any]]:
    spec = template.get("spec") or {}
    return [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]


def _refuse_reserved(overlay: dict[str, Any]) -> None:
    for container in _containers(overlay):
        for variable in container.get("env") or []:
            if str(variable.get("name", "")).startswith(_RESERVED):
                raise InvalidSpec(
                    f"spec.podTemplate: {variable['name']} is the operator's to set, as all names that begin with "
                    "MOORAGE_ or PET_: choose another name"
                )


def _refuse_broken(template: Manifest) -> None:
    """What the API server would answer with an internal error, or nobody would understand."""
    try:
        orjson.dumps(template)
    except TypeError as error:
        raise InvalidSpec(f"spec.podTemplate: cannot be written as JSON: {error}") from error
    if not (template.get("spec") or {}).get("containers"):
        raise InvalidSpec("spec.podTemplate.spec: the pod must keep its containers")
    for container in _containers(template):
        name = container.get("name")
        for variable in container.get("env") or []:
            if not isinstance(variable.get("value", ""), str):
                raise InvalidSpec(
                    f"spec.podTemplate: env {variable.get('name')} of container {name}: quote the value, it is text"
                )
        if not container.get("image"):
            raise InvalidSpec(f"spec.podTemplate: container {name} has no image; ours are called server and trainer")
