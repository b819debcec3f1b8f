"""One reconcile of a ModelDeployment: resolve the model, make the children, tell the truth about them.

What should be comes from `desired`, what is true from `status`, how many from `replicas`; here they only meet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
        pods, replica_sets = ([], []) if calm or deployment is None else await self._look(key)
        status = compute(md, ServingObserved(deployment, replica_sets, pods, model, decision, problem), now)
        if taken:
            return Outcome(status, TAKEN_LOOK)
        if calm and not waiting:
            self._lookout.leave(key)
            return Outcome(status, failed=failed)
        if deployment is None and not waiting:
            return Outcome(status, failed=failed)  # nothing runs: what comes next comes with an event
        return Outcome(status, self._lookout.next(key, _seen(md, pods)), failed)

    def _deployment(self, key: Key, owner: Object) -> Object | None:
        """Ours. One of a former resource of this name says nothing about this one."""
        found = self._store.get(Key(DEPLOYMENT.kind, key.namespace, key.name))
        return found if found is not None and standing(owner, found) is Standing.OURS else None

    async def _look(self, key: Key) -> tuple[list[Object], list[Object]]:
        labels = f"{MODEL_LABEL}={key.name}"
        pods = await self._client.list(POD, key.namespace, labels=labels)
        replica_sets = await self._client.list(REPLICA_SET, key.namespace, labels=labels)
        return pods.items, replica_sets.items


def _seen(md: ModelDeployment, pods: list[Object]) -> Any:
    """What has to stay the same for the next look to take its time."""
    return md.metadata.generation, sorted((pod["metadata"]["name"], pod["metadata"]["resourceVersion"]) for pod in pods)
