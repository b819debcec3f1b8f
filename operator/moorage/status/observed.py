"""What a reconcile has seen of a ModelDeployment: the input of its status."""

from dataclasses import dataclass, field
from typing import Any

from moorage.api.facts import Decision, Problem, ResolvedModel, Waiting

Object = dict[str, Any]


@dataclass(frozen=True)
class ServingObserved:
    """`replica_sets` and `pods` are needed only while the Deployment is not settled."""

    deployment: Object | None = None
    replica_sets: list[Object] = field(default_factory=list)
    pods: list[Object] = field(default_factory=list)
    model: ResolvedModel | Waiting | None = None
    scaling: Decision | None = None
    problem: Problem | None = None
