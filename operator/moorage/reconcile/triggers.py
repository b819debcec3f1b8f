"""Whose turn it is when an object changed. Pure; the answer is keys, never what to do with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from moorage.api.names import MODEL_LABEL, TRAINING_LABEL
from moorage.kube.kinds import MODEL_DEPLOYMENT, OWNERS, TRAINING_JOB, Key
from moorage.reconcile.store import Object, Store

LABEL_OF_OWNER = {MODEL_LABEL: MODEL_DEPLOYMENT.kind, TRAINING_LABEL: TRAINING_JOB.kind}
OWNER_KINDS = frozenset(kind.kind for kind in OWNERS)


def keys_for(store: Store, old: Object | None, new: Object | None) -> Iterator[Key]:
    """`old` and `new` are what the store had and has now; one of them is None when it came or went, and `old` may be
    left out for children."""
    obj = new or old
    if obj is None:
        return
    if obj["kind"] in OWNER_KINDS:
        yield Key(obj["kind"], obj["metadata"]["namespace"], obj["metadata"]["name"])
        if obj["kind"] == TRAINING_JOB.kind and _outcome(old) != _outcome(new):
            yield from _followers(store, obj["metadata"]["namespace"])
        return
    yield from owners(obj)


def owners(child: Object) -> set[Key]:
    """By label and by ownerReference: whichever of them somebody took away, the owner has to put it back."""
    meta = child["metadata"]
    namespace, labels = meta.get("namespace", ""), meta.get("labels") or {}
    keys = {Key(kind, namespace, labels[label]) for label, kind in LABEL_OF_OWNER.items() if label in labels}
    for reference in meta.get("ownerReferences") or ():
        if reference.get("controller") and reference["kind"] in OWNER_KINDS:
            keys.add(Key(reference["kind"], namespace, reference["name"]))
    return keys


def _followers(store: Store, namespace: str) -> Iterator[Key]:
    for obj in store.by("follower", namespace):
        yield Key(MODEL_DEPLOYMENT.kind, namespace, obj["metadata"]["name"])


def _outcome(job: Object | None) -> Any:
    """What a ModelDeployment that follows training looks at. Progress is not part of it."""
    if job is None:
        return None
    status = job.get("status") or {}
    succeeded = [c.get("status") for c in status.get("conditions") or () if c.get("type") == "Succeeded"]
    return job["metadata"].get("labels"), status.get("output"), succeeded, "deletionTimestamp" in job["metadata"]
