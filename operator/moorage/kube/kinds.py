"""The kinds the operator reads and writes, and the paths they are served at.

A table, not discovery: what we touch is fixed, and a kind that is missing from it is a programming error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from moorage.api.names import GROUP, VERSION


class Key(NamedTuple):
    """What a queue carries and a store is asked for."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Kind:
    kind: str
    group: str
    version: str
    plural: str

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str = "", subresource: str = "") -> str:
        root = f"/apis/{self.api_version}" if self.group else f"/api/{self.version}"
        parts = [root, *(("namespaces", namespace) if namespace else ()), self.plural, name, subresource]
        return "/".join(part for part in parts if part)


MODEL_DEPLOYMENT = Kind("ModelDeployment", GROUP, VERSION, "modeldeployments")
TRAINING_JOB = Kind("TrainingJob", GROUP, VERSION, "trainingjobs")
DEPLOYMENT = Kind("Deployment", "apps", "v1", "deployments")
REPLICA_SET = Kind("ReplicaSet", "apps", "v1", "replicasets")
JOB = Kind("Job", "batch", "v1", "jobs")
SERVICE = Kind("Service", "", "v1", "services")
CONFIG_MAP = Kind("ConfigMap", "", "v1", "configmaps")
POD = Kind("Pod", "", "v1", "pods")
POD_DISRUPTION_BUDGET = Kind("PodDisruptionBudget", "policy", "v1", "poddisruptionbudgets")
POD_MONITOR = Kind("PodMonitor", "monitoring.coreos.com", "v1", "podmonitors")
LEASE = Kind("Lease", "coordination.k8s.io", "v1", "leases")
EVENT = Kind("Event", "events.k8s.io", "v1", "events")

OWNERS = (MODEL_DEPLOYMENT, TRAINING_JOB)
CHILDREN = (DEPLOYMENT, JOB, SERVICE, POD_DISRUPTION_BUDGET, CONFIG_MAP)
"""Children that are written and watched. A PodMonitor is not among them, as its CRD may come and go with somebody
else's installation: it is listed on every resync instead."""
GRANDCHILDREN = (REPLICA_SET, POD)
"""Made by Kubernetes out of our children; watched, never written."""
WATCHED = frozenset(kind.kind for kind in (*OWNERS, *CHILDREN, *GRANDCHILDREN))

BY_KIND = {kind.kind: kind for kind in (*OWNERS, *CHILDREN, REPLICA_SET, POD, POD_MONITOR, LEASE, EVENT)}


def key_of(obj: dict[str, Any]) -> Key:
    meta = obj["metadata"]
    return Key(obj["kind"], meta.get("namespace", ""), meta["name"])


def kind_of(obj: dict[str, Any]) -> Kind:
    return BY_KIND[obj["kind"]]
