"""One reconcile of a ModelDeployment: resolve the model, make the children, tell the truth about them.

What should be comes from `desired`, what is true from `status`, how many from `replicas`; here they only meet.
"""

from __future__ import annotations

from collections.abc import Callable

from moorage.api.facts import ResolvedModel
from moorage.api.modeldeployment import ModelDeployment
from moorage.desired import serving
from moorage.desired.defaults import Defaults
from moorage.desired.model import resolve
from moorage.kube.kinds import CONFIG_MAP, DEPLOYMENT, TRAINING_JOB, Key
from moorage.reconcile.children import Children, Done, attempt
from moorage.reconcile.eventreader import EventReader
from moorage.reconcile.indexes import controller_uid, follows_training
from moorage.reconcile.outcome import SOON, TAKEN_LOOK, Outcome
from moorage.reconcile.plan import Standing, standing
from moorage.reconcile.replicas import Replicas
from moorage.reconcile.servers import Servers
from moorage.reconcile.store import Object, Store
from moorage.status import cold_start
from moorage.status.rollout import newest
from moorage.status.serving import ServingObserved, compute, settled


class Serving:
    def __init__(
        self,
        store: Store,
        children: Children,
        replicas: Replicas,
        servers: Servers,
        events: EventReader,
        defaults: Callable[[], Defaults],
    ) -> None:
        self._store, self._children = store, children
        self._replicas, self._servers, self._defaults = replicas, servers, defaults
        self._events = events

    async def reconcile(self, key: Key, obj: Object, now: str) -> Outcome:
        md = ModelDeployment.parse(obj)
        model = resolve(md, list(self._store.of(TRAINING_JOB, key.namespace)) if follows_training(obj) else [])
        replicas, decision = self._replicas.wanted(key, md)
        done = Done()
        deployment = self._deployment(key, obj)
        if isinstance(model, ResolvedModel):
            defaults, calm = self._defaults(), settled(md, deployment)
            mark = (md.metadata.uid, md.metadata.generation, model, replicas, defaults, calm)
            if not self._children.in_order(obj, mark):
                # Pods of the old revision may start once more while they are replaced, and want their files.
                keep = () if calm else (CONFIG_MAP.kind,)
                done = await attempt(self._make(obj, md, model, replicas, defaults, keep))
                if done == Done():
                    self._children.settle(obj, mark)
                deployment = self._deployment(key, obj)
        replica_sets, pods = self._look(key, md, deployment) if deployment is not None else ([], [])
        told = self._servers.told(key)
        heard, again = await self._events.of(pods, now)
        seen = ServingObserved(deployment, replica_sets, pods, model, decision, done.problem, told, heard)
        status = compute(md, seen, now)
        if done.taken:
            return Outcome(status, TAKEN_LOOK)
        return Outcome(status, SOON if done.waiting else again, done.failed)

    async def _make(
        self,
        obj: Object,
        md: ModelDeployment,
        model: ResolvedModel,
        replicas: int,
        defaults: Defaults,
        keep: tuple[str, ...],
    ) -> Done:
        children = serving.children(md, model, replicas, defaults)
        done = await self._children.converge(obj, children)
        if done.problem is None:
            await self._children.prune(obj, children, keep=keep)
        return done

    def leave(self, key: Key) -> None:
        """Deleted: nothing of it is worth remembering."""
        self._children.leave(key)
        self._replicas.forget(key)
        self._servers.leave(key)

    def _deployment(self, key: Key, owner: Object) -> Object | None:
        """Ours. One of a former resource of this name says nothing about this one."""
        found = self._store.get(Key(DEPLOYMENT.kind, key.namespace, key.name))
        return found if found is not None and standing(owner, found) is Standing.OURS else None

    def _look(self, key: Key, md: ModelDeployment, deployment: Object) -> tuple[list[Object], list[Object]]:
        """ReplicaSets, and pods where they have something to say."""
        replica_sets = self._store.controlled_by(deployment["metadata"]["uid"])
        current, told = newest(deployment, replica_sets), md.status.get("coldStart")
        if cold_start.complete(told, current):
            self._servers.leave(key)
        # Of several models nothing else tells which could be loaded.
        several = bool(md.spec.runtime.models)
        enough = cold_start.complete(told, current) if several else cold_start.begun(told, current)
        if settled(md, deployment) and enough and not self._servers.told(key):
            return replica_sets, []
        pods = [pod for found in replica_sets for pod in self._store.controlled_by(found["metadata"]["uid"])]
        if not enough and current is not None:
            tries = 3 if several else 1
            self._servers.ask(key, [pod for pod in pods if controller_uid(pod) == current["metadata"]["uid"]], tries)
        return replica_sets, pods
