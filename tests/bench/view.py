"""What a watch shows of all ModelDeployments, kept as small as the waits of a benchmark need."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson

from bench.client import MODEL_DEPLOYMENTS, Api
from bench.waiting import Tell, until_done

HOURS = 4 * 3600


class View:
    def __init__(self) -> None:
        self.there: set[str] = set()
        self.observed: dict[str, int] = {}
        """By uid: the generation that the status speaks of."""
        self.ready: dict[str, int] = {}
        """By uid: the generation that is rolled out and Ready; 0 where that is not the present one."""

    async def until_ready(self, count: int, generation: int, timeout: float, tell: Tell) -> None:
        await self._until(lambda: sum(g >= generation for g in self.ready.values()), count, "are Ready", timeout, tell)

    async def until_observed(self, count: int, timeout: float, tell: Tell) -> None:
        await self._until(lambda: sum(g > 0 for g in self.observed.values()), count, "have a status", timeout, tell)

    async def until_gone(self, timeout: float, tell: Tell) -> None:
        await self._until(lambda: len(self.there), 0, "are there", timeout, tell)

    async def _until(self, now: Callable[[], int], wanted: int, what: str, timeout: float, tell: Tell) -> None:
        async def missing() -> str:
            return "" if now() == wanted else f"{now()} {what}, wanted {wanted}"

        await until_done(missing, timeout, tell, every=0.05)

    def _take(self, event: dict[str, Any]) -> None:
        obj = event["object"]
        if event["type"] == "ERROR":
            raise RuntimeError(f"the watch broke: {obj.get('message')}")
        uid = obj["metadata"]["uid"]
        if event["type"] == "DELETED":
            self.there.discard(uid)
            self.observed.pop(uid, None)
            self.ready.pop(uid, None)
            return
        self.there.add(uid)
        self.observed[uid] = (obj.get("status") or {}).get("observedGeneration") or 0
        self.ready[uid] = obj["metadata"]["generation"] if rolled_out(obj) else 0

    async def _follow(self, api: Api, version: str) -> None:
        # Right after a CRD has changed the API server ends its watches; what follows goes on from there.
        while True:
            path = f"{MODEL_DEPLOYMENTS}?watch=true&resourceVersion={version}&timeoutSeconds={HOURS}"
            async with api.session.get(path) as answer:
                if answer.status != 429:
                    answer.raise_for_status()
                    async for line in answer.content:
                        event = orjson.loads(line)
                        self._take(event)
                        version = event["object"]["metadata"]["resourceVersion"]
            await asyncio.sleep(0.2)


def rolled_out(obj: dict[str, Any]) -> bool:
    """Ready at its present generation, with no pod of another."""
    status, generation = obj.get("status") or {}, obj["metadata"]["generation"]
    ready = next((c for c in status.get("conditions") or () if c["type"] == "Ready"), None)
    return bool(
        ready
        and ready["status"] == "True"
        and ready["observedGeneration"] == generation
        and status["replicas"] == status["updatedReplicas"] == status["readyReplicas"] == status["desiredReplicas"]
    )


def why_not(obj: dict[str, Any]) -> str:
    """In the words of its status."""
    status = obj.get("status") or {}
    counts = {key: status.get(key) for key in ("desiredReplicas", "replicas", "updatedReplicas", "readyReplicas")}
    ready = next((c for c in status.get("conditions") or () if c["type"] == "Ready"), {})
    return f"{ready.get('reason')}: {str(ready.get('message'))[:200]} {counts}"


@asynccontextmanager
async def view_of(api: Api) -> AsyncIterator[View]:
    """A view that follows until the block ends. A watch that breaks ends the run: its numbers would be wrong."""
    view = View()
    page = await api.get(f"{MODEL_DEPLOYMENTS}?limit=1")
    if page["items"]:
        raise RuntimeError("the benchmark must begin without ModelDeployments")
    async with asyncio.TaskGroup() as group:
        following = group.create_task(view._follow(api, page["metadata"]["resourceVersion"]))
        yield view
        following.cancel()
