"""By what the store finds objects besides their names: client-go's indexers, each a function from object to entries.

Without them every round of the scaling loop would read all resources, and every owner all children.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from moorage.kube.kinds import MODEL_DEPLOYMENT

Object = dict[str, Any]
IndexKey = tuple[str, ...]
"""Name of the index, then its values."""


def controller_uid(obj: Object) -> str:
    for reference in obj["metadata"].get("ownerReferences") or ():
        if reference.get("controller"):
            return str(reference["uid"])
    return ""


def controlled(obj: Object) -> Iterator[IndexKey]:
    if uid := controller_uid(obj):
        yield "controller", uid


def scaled(obj: Object) -> Iterator[IndexKey]:
    """Scales by load."""
    if obj["kind"] == MODEL_DEPLOYMENT.kind and (obj.get("spec") or {}).get("scaling"):
        yield ("scaled",)


def followers(obj: Object) -> Iterator[IndexKey]:
    """Serves what training makes, by namespace."""
    if obj["kind"] == MODEL_DEPLOYMENT.kind and follows_training(obj):
        yield "follower", obj["metadata"]["namespace"]


def follows_training(model_deployment: Object) -> bool:
    return "fromTrainingJobs" in ((model_deployment.get("spec") or {}).get("model") or {})


INDEXES: tuple[Callable[[Object], Iterator[IndexKey]], ...] = (controlled, scaled, followers)
