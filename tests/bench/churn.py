"""Steady change: resources made, changed, scaled and deleted at a fixed rate, and what must hold when it has stopped.

It keeps about as many resources as it was told to. Names that were deleted come back at once, which is when children
of the former life are still on their way out. Used by the hour of `make soak` and by the three minutes in the tests.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bench import usage
from bench.client import MODEL_DEPLOYMENTS, Api, model_deployments
from bench.view import rolled_out, why_not
from bench.waiting import Tell, until_done
from support.operator_process import OperatorProcess
from support.resources import model_deployment, without_volumes

SELECTOR = "labelSelector=app.kubernetes.io/managed-by=moorage"
CHILD_KINDS = {
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "Service": "/api/v1/namespaces/{}/services",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{}/poddisruptionbudgets",
}
MOST_REPLICAS = 3
TASKS = "moorage_operator_tasks"
Place = tuple[str, str]


@dataclass(frozen=True)
class Sample:
    """The operator at one moment."""

    seconds: float
    memory_mib: float
    open_files: int
    queue_depth: float
    queue_delayed: float
    tasks: float | None

    @classmethod
    def of(cls, operator: OperatorProcess, seconds: float) -> "Sample":
        for _ in range(5):  # a busy machine answers late
            metrics = {name: value for name, labels, value in operator.samples() if not labels}
            if metrics:
                break
        return cls(
            seconds,
            usage.memory_mib(operator.pid),
            usage.open_files(operator.pid),
            metrics["moorage_operator_queue_depth"],
            metrics["moorage_operator_queue_delayed"],
            metrics.get(TASKS),
        )


class Churn:
    def __init__(self, api: Api, namespaces: Sequence[str], size: int, *, seed: int = 0) -> None:
        self._api, self._namespaces, self._size = api, tuple(namespaces), size
        self._random = random.Random(seed)
        self._live: dict[Place, int] = {}
        """How many replicas each shall have, by namespace and name."""
        self._busy: set[Place] = set()
        self._freed: list[Place] = []
        self._made = 0
        self.done: Counter[str] = Counter()

    async def fill(self) -> None:
        await self._api.each(range(self._size), lambda _: self._create())

    async def run(self, rate: float, seconds: float) -> None:
        """Open loop: an API server that is slow gets no fewer requests."""
        start, number = time.monotonic(), 0
        async with asyncio.TaskGroup() as group:
            while (now := time.monotonic() - start) < seconds:
                if (wait := number / rate - now) > 0:
                    await asyncio.sleep(wait)
                number += 1
                group.create_task(self._turn())

    async def _turn(self) -> None:
        few, many = len(self._live) < 0.98 * self._size, len(self._live) > 1.02 * self._size
        weights = {"create": 8 if few else 2, "change": 3, "scale": 3, "delete": 8 if many else 2}
        what = self._random.choices(list(weights), list(weights.values()))[0]
        self.done[what] += 1
        await getattr(self, f"_{what}")()

    @contextmanager
    def _one(self) -> Iterator[Place]:
        """Any that is there, nobody else's meanwhile."""
        place = self._random.choice([place for place in self._live if place not in self._busy])
        self._busy.add(place)
        try:
            yield place
        finally:
            self._busy.discard(place)

    async def _create(self) -> None:
        if self._freed and self._random.random() < 0.5:
            place = self._freed.pop()
        else:
            self._made += 1
            place = self._namespaces[self._made % len(self._namespaces)], f"model-{self._made:06}"
        replicas = self._random.randint(1, MOST_REPLICAS)
        manifest = model_deployment(place[1], **without_volumes(replicas=replicas))
        await self._api.post(model_deployments(place[0]), manifest)
        self._live[place] = replicas

    async def _change(self) -> None:
        with self._one() as place:
            edition = {"bench.moorage.dev/edition": str(self._random.random())}
            patch = {"spec": {"podTemplate": {"metadata": {"annotations": edition}}}}
            await self._api.patch(model_deployments(*place), patch)

    async def _scale(self) -> None:
        with self._one() as place:
            replicas = self._random.randint(1, MOST_REPLICAS)
            await self._api.patch(model_deployments(*place, "scale"), {"spec": {"replicas": replicas}})
            self._live[place] = replicas

    async def _delete(self) -> None:
        with self._one() as place:
            await self._api.delete(model_deployments(*place))
            self._live.pop(place)
            self._freed.append(place)

    # What must hold afterwards.

    async def settle(self, operator: OperatorProcess, timeout: float, tell: Tell) -> None:
        """Until all that is there is Ready as it was last asked for, and the operator has nothing to do."""
        await until_done(lambda: self._unsettled(operator), timeout, tell, every=2)

    async def _unsettled(self, operator: OperatorProcess) -> str:
        owners = {(o["metadata"]["namespace"], o["metadata"]["name"]): o for o in await self._owners()}
        if set(owners) != set(self._live):
            return f"{len(owners)} resources are there, {len(self._live)} should be"
        late = [(name, obj) for name, obj in owners.items() if not rolled_out(obj)]
        if late:
            return f"{len(late)} are not Ready, such as {'/'.join(late[0][0])}: {why_not(late[0][1])}"
        sample = await asyncio.to_thread(Sample.of, operator, 0)
        if sample.queue_depth or sample.queue_delayed:
            return f"{sample.queue_depth:g} keys wait in the queue, {sample.queue_delayed:g} for their time"
        wrong = await self.wrong_children()
        return f"{len(wrong)} children are wrong, such as {wrong[0]}" if wrong else ""

    async def wrong_children(self) -> list[str]:
        """Those without an owner that lives, and those that are missing or too many."""
        uids = {o["metadata"]["uid"]: (o["metadata"]["namespace"], o["metadata"]["name"]) for o in await self._owners()}
        expected = {(kind, *place) for place, n in self._live.items() for kind in CHILD_KINDS if _has(kind, n)}
        found, wrong = set(), []
        for kind, path in CHILD_KINDS.items():
            for namespace in self._namespaces:
                for obj in (await self._api.get(f"{path.format(namespace)}?{SELECTOR}"))["items"]:
                    meta = obj["metadata"]
                    references = meta.get("ownerReferences") or []
                    if [uids.get(r["uid"]) for r in references] != [(namespace, meta["name"])]:
                        wrong.append(f"{kind} {namespace}/{meta['name']} without its owner")
                    found.add((kind, namespace, meta["name"]))
        wrong += [f"{' '.join(missing)} missing" for missing in expected - found]
        wrong += [f"{' '.join(extra)} too many" for extra in found - expected]
        return wrong

    async def _owners(self) -> list[dict[str, Any]]:
        everything: list[dict[str, Any]] = (await self._api.get(MODEL_DEPLOYMENTS))["items"]
        return [obj for obj in everything if obj["metadata"]["namespace"] in self._namespaces]


def _has(kind: str, replicas: int) -> bool:
    return kind != "PodDisruptionBudget" or replicas > 1
