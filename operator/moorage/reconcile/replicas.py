"""How many replicas each ModelDeployment is to have, and what the scaling loop needs to know to say so.

Decisions live in memory only. Before the first one after a start, what runs goes on running.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from moorage.api.conditions import find
from moorage.api.facts import Decision, InvalidSpec
from moorage.api.modeldeployment import ModelDeployment, Scaling
from moorage.kube.kinds import DEPLOYMENT, MODEL_DEPLOYMENT, Key
from moorage.reconcile.queue import WorkQueue
from moorage.reconcile.store import Object, Store
from moorage.scaling.policy import Bounds, hold


@dataclass(frozen=True, slots=True)
class Scaled:
    """One that scales by load, as it stands."""

    key: Key
    uid: str
    scaling: Scaling
    current: int
    ready: int


class Replicas:
    def __init__(self, store: Store, queue: WorkQueue, *, measuring: bool) -> None:
        self._store, self._queue = store, queue
        self._measuring = measuring
        # With the uid of the resource it is about: one that was made anew under its name begins afresh.
        self._decisions: dict[Key, tuple[str, Decision]] = {}

    def wanted(self, key: Key, md: ModelDeployment) -> tuple[int, Decision | None]:
        """The number, and the decision behind it; None where a status already tells of an earlier one."""
        scaling = md.spec.scaling
        if scaling is None:
            self._decisions.pop(key, None)
            return md.replicas, None
        bounds, uid = Bounds(scaling.min_replicas, scaling.max_replicas), md.metadata.uid
        current, decision = self._current(key, uid, md.status), self._decision(key, uid)
        if decision is not None:
            if bounds.minimum <= decision.replicas <= bounds.maximum:
                return decision.replicas, decision
            current = decision.replicas  # the bounds changed since; the next round will say it in its own words
        if not self._measuring:
            missing = "the operator has no Prometheus: set prometheus.url in the chart's values"
            held = hold(bounds, current, "PrometheusNotConfigured", missing)
        else:
            held = hold(bounds, current, "Measuring", "waiting for the first answer of Prometheus", status="Unknown")
            told = find(md.status.get("conditions"), "ScalingActive")
            if told is not None and held.replicas == current:
                return held.replicas, None
        return held.replicas, held

    def publish(self, key: Key, uid: str, decision: Decision) -> None:
        """Keep it; the same number for the same cause is no news, whatever the demand reads by now."""
        old = self._decision(key, uid)
        if old is not None and (old.replicas, old.active[:2]) == (decision.replicas, decision.active[:2]):
            return
        resource = self._store.get(key)
        if resource is None or resource["metadata"]["uid"] != uid:
            return  # deleted while it was decided about
        self._decisions[key] = (uid, decision)
        self._queue.add(key)

    def forget(self, key: Key) -> None:
        self._decisions.pop(key, None)

    def scaled(self) -> Iterator[Scaled]:
        """Everything the loop has to decide about. What does not run yet has no load."""
        for obj in self._store.by("scaled"):
            if "deletionTimestamp" in obj["metadata"]:
                continue
            key = Key(MODEL_DEPLOYMENT.kind, obj["metadata"]["namespace"], obj["metadata"]["name"])
            uid = obj["metadata"]["uid"]
            live = self._live(key, uid)
            if live is None:
                continue
            try:
                scaling = ModelDeployment.parse(obj).spec.scaling
            except InvalidSpec:
                continue  # its own reconcile says so
            current = self._current(key, uid, obj.get("status") or {})
            if scaling is not None and current is not None:
                yield Scaled(key, uid, scaling, current, int((live.get("status") or {}).get("readyReplicas") or 0))

    def _current(self, key: Key, uid: str, status: Object) -> int | None:
        decision = self._decision(key, uid)
        if decision is not None:
            return decision.replicas
        live = self._live(key, uid)
        found = live["spec"].get("replicas") if live is not None else status.get("desiredReplicas")
        return None if found is None else int(found)

    def _decision(self, key: Key, uid: str) -> Decision | None:
        about, decision = self._decisions.get(key, ("", None))
        return decision if about == uid else None

    def _live(self, key: Key, uid: str) -> Object | None:
        """The Deployment, unless it is of a former resource of this name, or of somebody else."""
        found = self._store.get(Key(DEPLOYMENT.kind, key.namespace, key.name))
        if found is None:
            return None
        owners = found["metadata"].get("ownerReferences") or ()
        return found if all(owner["uid"] == uid for owner in owners if owner.get("controller")) else None
