"""What a reconcile has seen of a ModelDeployment: the input of its status."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from moorage.api.facts import Decision, Problem, ResolvedModel, Waiting
from moorage.status.cold_start import ServerTimes
from moorage.status.kubelet import Hearsay

Object = dict[str, Any]


@dataclass(frozen=True)
class ServingObserved:
    """`pods` are needed only while the Deployment is not settled, or while its cold start is not known."""

    deployment: Object | None = None
    replica_sets: list[Object] = field(default_factory=list)
    pods: list[Object] = field(default_factory=list)
    model: ResolvedModel | Waiting | None = None
    scaling: Decision | None = None
    problem: Problem | None = None
    server_times: Mapping[str, ServerTimes] = field(default_factory=dict)
    """What servers said of their start, by the name of their pod."""
    heard: Hearsay = field(default_factory=dict)
    """Events of pods that have waited for longer than usual (`kubelet.puzzling`)."""
