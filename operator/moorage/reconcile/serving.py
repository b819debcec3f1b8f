"""One reconcile of a ModelDeployment: resolve the model, make the children, tell the truth about them.

What should be comes from `desired`, what is true from `status`, how many from `replicas`; here they only meet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from moorage.api.facts import InvalidSpec, Problem, ResolvedModel
from moorage.api.modeldeployment import ModelDeployment
from moorage.api.names import MODEL_LABEL
from moorage.desired import serving
from moorage.desired.defaults import Defaults
from moorage.desired.model import resolve
from moorage.kube.client import Client
from moorage.kube.errors import ApiError, Forbidden, Invalid, NotFound
from moorage.kube.kinds import CONFIG_MAP, DEPLOYMENT, POD, REPLICA_SET, TRAINING_JOB, Key
from moorage.reconcile.children import Children
from moorage.reconcile.outcome import TAKEN_LOOK, Lookout, Outcome, problem_of
from moorage.reconcile.plan import Standing, standing
from moorage.reconcile.replicas import Replicas
from moorage.reconcile.store import Object, Store
from moorage.reconcile.triggers import follows_training
from moorage.status.serving import ServingObserved, compute, settled

FRESH = 1.0
"""Seconds for which a look at the pods will do. The next one comes by itself after two at the latest."""


class Serving:
    def __init__(
        self,
        client: Client,
        store: Store,
        children: Children,
        replicas: Replicas,
        lookout: Lookout,
        defaults: Callable[[], Defaults],
    ) -> None:
        self._client, self._store, self._children = client, store, children
        self._replicas, self._lookout, self._defaults = replicas, lookout, defaults
        self._looks: dict[Key, tuple[float, list[Object], list[Object]]] = {}

    async def reconcile(self, key: Key, obj: Object, now: str) -> Outcome:
        md = ModelDeployment.parse(obj)
        model = resolve(md, list(self._store.of(TRAINING_JOB, key.namespace)) if follows_training(obj) else [])
        replicas, decision = self._replicas.wanted(key, md)
        problem: Problem | None = None
        failed: ApiError | None = None
        waiting = taken = False
        if isinstance(model, ResolvedModel):
            try:
                desired = serving.children(md, model, replicas, self._defaults())
                done = await self._children.converge(obj, desired)
                problem, waiting, taken = done.problem, done.waiting, done.taken
                if problem is None:
                    calm = settled(md, self._deployment(key, obj))
                    # Pods of the old revision may start once more while they are replaced, and want their files.
                    await self._children.prune(obj, desired, keep=() if calm else (CONFIG_MAP.kind,))
            except InvalidSpec as error:
                problem = problem_of(error)
            except (Invalid, Forbidden, NotFound) as error:
                problem, failed = problem_of(error), error
        deployment = self._deployment(key, obj)
        calm = settled(md, deployment)
        pods, replica_sets = ([], []) if calm or deployment is None else await self._look(key, deployment)
        status = compute(md, ServingObserved(deployment, replica_sets, pods, model, decision, problem), now)
        if taken:
            return Outcome(status, TAKEN_LOOK)
        if calm and not waiting:
            self._rest(key)
            return Outcome(status, failed=failed)
        if deployment is None and not waiting:
            return Outcome(status, failed=failed)  # nothing runs: what comes next comes with an event
        return Outcome(status, self._lookout.next(key, (md.metadata.generation, replicas)), failed)

    def leave(self, key: Key) -> None:
        """Deleted: nothing of it is worth remembering."""
        self._rest(key)
        self._children.leave(key)
        self._replicas.forget(key)

    def _rest(self, key: Key) -> None:
        self._lookout.leave(key)
        self._looks.pop(key, None)

    def _deployment(self, key: Key, owner: Object) -> Object | None:
        """Ours. One of a former resource of this name says nothing about this one."""
        found = self._store.get(Key(DEPLOYMENT.kind, key.namespace, key.name))
        return found if found is not None and standing(owner, found) is Standing.OURS else None

    async def _look(self, key: Key, deployment: Object) -> tuple[list[Object], list[Object]]:
        """Pods and ReplicaSets, now or a moment ago: a Deployment on its way changes many times a second."""
        if not (deployment.get("status") or {}).get("observedGeneration"):
            return [], []  # nobody has seen it yet, so it has no pods
        now = asyncio.get_running_loop().time()
        known = self._looks.get(key)
        if known is not None and now - known[0] < FRESH:
            return known[1], known[2]
        labels = f"{MODEL_LABEL}={key.name}"
        pods = (await self._client.list(POD, key.namespace, labels=labels)).items
        replica_sets = (await self._client.list(REPLICA_SET, key.namespace, labels=labels)).items
        self._looks[key] = (now, pods, replica_sets)
        return pods, replica_sets
