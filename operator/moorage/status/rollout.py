"""How far a Deployment's rollout is: how many pods there are, and which of them are of the current generation."""

from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]


@dataclass(frozen=True)
class Rollout:
    """`ready`, `updated` and `pods` are of the current generation only. `before`: pods of earlier ones that still
    serve."""

    exists: bool = False
    calm: bool = False
    replicas: int = 0
    ready: int = 0
    updated: int = 0
    before: int = 0
    pods: list[Object] = field(default_factory=list)
    refused: str | None = None
    """The API server's words, where it does not let pods be made."""


def rollout(deployment: Object | None, replica_sets: list[Object], pods: list[Object], *, calm: bool) -> Rollout:
    if deployment is None:
        return Rollout()
    status = deployment.get("status") or {}
    if calm:
        replicas = _count(deployment, "replicas")
        return Rollout(True, True, replicas, replicas, replicas)
    # Of the ReplicaSets, whose counts the Deployment's follow by a moment: told as one, they are of one moment.
    ours = [rs for rs in replica_sets if _owner(rs) == deployment["metadata"].get("uid")]
    current = newest(deployment, ours)
    before = [rs for rs in ours if rs is not current]
    return Rollout(
        exists=True,
        replicas=sum(_count(rs, "replicas") for rs in ours),
        ready=_count(current, "readyReplicas"),
        updated=_count(current, "replicas"),
        before=sum(_count(rs, "readyReplicas") for rs in before),
        pods=[pod for pod in pods if current and _owner(pod) == current["metadata"].get("uid")],
        refused=_refused(status),
    )


def _count(obj: Object | None, field: str) -> int:
    return int(((obj or {}).get("status") or {}).get(field) or 0)


def newest(deployment: Object, replica_sets: list[Object]) -> Object | None:
    """The ReplicaSet of the Deployment's own template: what its controller looks for too. None before it has made
    it."""
    wanted = _template(deployment)
    ours = [rs for rs in replica_sets if _owner(rs) == deployment["metadata"].get("uid") and _template(rs) == wanted]
    # Two of the same template can only come of a hash collision: the controller takes the oldest.
    return min(ours, key=lambda rs: rs["metadata"].get("creationTimestamp") or "", default=None)


def _template(obj: Object) -> Object:
    template = obj["spec"]["template"]
    metadata = template.get("metadata") or {}
    labels = {key: value for key, value in (metadata.get("labels") or {}).items() if key != "pod-template-hash"}
    return {"labels": labels, "annotations": metadata.get("annotations") or {}, "spec": template.get("spec")}


def _owner(obj: Object) -> str | None:
    owners = obj["metadata"].get("ownerReferences") or []
    return next((owner.get("uid") for owner in owners if owner.get("controller")), None)


def _refused(status: Object) -> str | None:
    for condition in status.get("conditions") or []:
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            return str(condition.get("message") or condition.get("reason") or "pods cannot be made")
    return None
