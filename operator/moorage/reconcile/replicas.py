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
    scaling: Scaling
    current: int
    ready: int


class Replicas:
    def __init__(self, store: Store, queue: WorkQueue, *, measuring: bool) -> None:
        self._store, self._queue = store, queue
        self._measuring = measuring
        self._decisions: dict[Key, Decision] = {}

    def wanted(self, key: Key, md: ModelDeployment) -> tuple[int, Decision | None]:
        """The number, and the decision behind it; None where a status already tells of an earlier one."""
        scaling = md.spec.scaling
        if scaling is None:
            self._decisions.pop(key, None)
            return md.replicas, None
        bounds, current = Bounds(scaling.min_replicas, scaling.max_replicas), self._current(key, md.status)
        decision = self._decisions.get(key)
        if decision is not None:
            if bounds.minimum <= decision.replicas <= bounds.maximum:
                return decision.replicas, decision
            current = decision.replicas  # the bounds changed since; the next round will say it in its own words
        if not self._measuring:
            held = hold(
                bounds, current, "PrometheusNotConfigured", "the operator has no Prometheus: set its prometheusUrl"
            )
        else:
            held = hold(bounds, current, "Measuring", "waiting for the first answer of Prometheus", status="Unknown")
            told = find(md.status.get("conditions"), "ScalingActive")
            if told is not None and held.replicas == current:
                return held.replicas, None
        return held.replicas, held

    def publish(self, key: Key, decision: Decision) -> None:
        """Keep it; the same number for the same cause is no news, whatever the demand reads by now."""
        old = self._decisions.get(key)
        if old is not None and (old.replicas, old.active[:2]) == (decision.replicas, decision.active[:2]):
            return
        self._decisions[key] = decision
        self._queue.add(key)

    def forget(self, key: Key) -> None:
        self._decisions.pop(key, None)

    def scaled(self) -> Iterator[Scaled]:
        """Everything the loop has to decide about. What does not run yet has no load."""
        for obj in self._store.of(MODEL_DEPLOYMENT):
            if not (obj.get("spec") or {}).get("scaling") or "deletionTimestamp" in obj["metadata"]:
                continue
            key = Key(MODEL_DEPLOYMENT.kind, obj["metadata"]["namespace"], obj["metadata"]["name"])
            live = self._live(key)
            if live is None:
                continue
            try:
                scaling = ModelDeployment.parse(obj).spec.scaling
            except InvalidSpec:
                continue  # its own reconcile says so
            current = self._current(key, obj.get("status") or {})
            if scaling is not None and current is not None:
                yield Scaled(key, scaling, current, int((live.get("status") or {}).get("readyReplicas") or 0))

    def _current(self, key: Key, status: Object) -> int | None:
        decision = self._decisions.get(key)
        if decision is not None:
            return decision.replicas
        live = self._live(key)
        found = live["spec"].get("replicas") if live is not None else status.get("desiredReplicas")
        return None if found is None else int(found)

    def _live(self, key: Key) -> Object | None:
        return self._store.get(Key(DEPLOYMENT.kind, key.namespace, key.name))
