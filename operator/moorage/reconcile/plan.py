"""What has to be done about each child, and why, before anything is done. Pure.

The plan looks at what should be, what is, and whose it is. A child of somebody else is never touched, one of a former
resource of the same name is removed before ours takes its place, and one that is as it should be costs no request.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from moorage.api.names import DIGEST, MODEL_LABEL, TRAINING_LABEL
from moorage.desired.digest import covers
from moorage.desired.meta import MANAGED_BY
from moorage.kube.kinds import MODEL_DEPLOYMENT, Key, key_of

Object = dict[str, Any]


class Action(Enum):
    KEEP = "keep"
    APPLY = "apply"
    DELETE = "delete"
    """Delete it; once it is gone the next reconcile makes it anew."""
    WAIT = "wait"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Step:
    action: Action
    key: Key
    reason: str
    manifest: Object
    live: Object | None = None


class Standing(Enum):
    """Whose child a live object is."""

    OURS = "ours"
    ORPHAN = "orphan"
    FORMER = "former"
    FOREIGN = "foreign"


Satisfied = Callable[[Object, Object], bool]
"""(live, desired): the API server has already been told, and stores it in its own way."""


Verdict = Callable[[Object, Object], str]
"""Of an immutable child: Apply, Nothing, Recreate or Keep (see `desired.training.verdict`)."""


def plan_child(
    owner: Object, desired: Object, live: Object | None, satisfied: Satisfied, verdict: Verdict | None = None
) -> Step:
    """`desired` is stamped with its digest, so that `covers` sees both a new wish and somebody else's change."""
    key = key_of(desired)

    def step(action: Action, reason: str) -> Step:
        return Step(action, key, reason, desired, live)

    if live is None:
        return step(Action.APPLY, "it does not exist")
    whose = standing(owner, live)
    if whose is Standing.FOREIGN:
        return step(Action.REFUSE, f"{key.kind} {key.name} exists and belongs to {belongs_to(live)}")
    if "deletionTimestamp" in live["metadata"]:
        return step(Action.WAIT, "it is being deleted")
    if whose is Standing.FORMER or (whose is Standing.ORPHAN and verdict is not None):
        # A Job is a run: one of a former life must not count as this one's result.
        return step(Action.DELETE, "it is left over from a former resource of this name")
    if whose is Standing.ORPHAN:
        return step(Action.APPLY, "it has lost its owner")
    if verdict is not None:
        said = verdict(live, desired)
        if said == "Recreate":
            return step(Action.DELETE, "its pod template changed, which Kubernetes does not let us change in place")
        if said == "Keep":
            return step(Action.KEEP, "it runs and may finish as it is")
    if satisfied(live, desired):
        return step(Action.KEEP, "the API server was told, and nobody has touched it since")
    if covers(live, desired):
        return step(Action.KEEP, "it is as it should be")
    same = _digest(live) == _digest(desired)
    return step(Action.APPLY, "somebody changed it" if same else "it should be different")


def standing(owner: Object, live: Object) -> Standing:
    controller = next((r for r in live["metadata"].get("ownerReferences") or () if r.get("controller")), None)
    if controller is None:
        return Standing.ORPHAN if _labelled_ours(owner, live) else Standing.FOREIGN
    if controller["uid"] == owner["metadata"]["uid"]:
        return Standing.OURS
    same = (controller["kind"], controller["name"]) == (owner["kind"], owner["metadata"]["name"])
    return Standing.FORMER if same and _labelled_ours(owner, live) else Standing.FOREIGN


def belongs_to(live: Object) -> str:
    for reference in live["metadata"].get("ownerReferences") or ():
        if reference.get("controller"):
            return f"{reference['kind']} {reference['name']}"
    return "somebody else"


def _labelled_ours(owner: Object, live: Object) -> bool:
    labels = live["metadata"].get("labels") or {}
    label = MODEL_LABEL if owner["kind"] == MODEL_DEPLOYMENT.kind else TRAINING_LABEL
    return labels.get(MANAGED_BY) == "moorage" and labels.get(label) == owner["metadata"]["name"]


def _digest(obj: Object) -> str | None:
    return (obj["metadata"].get("annotations") or {}).get(DIGEST)
