"""The operator against a tight client that does the same writes and nothing else, with all controllers frozen.

Five writes a resource: the resource itself, three children, one status. The client sends the same bodies with the same
rights and as many in flight as the operator has workers; it watches nothing, decides nothing and keeps nothing.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from statistics import median
from typing import Any

import orjson

from bench.client import APPLY_PATCH, JSON, MERGE_PATCH, Api, model_deployments
from bench.fleet import REPLICAS, Fleet
from bench.meter import Meter, Phase
from bench.report import Row, at_most, told
from bench.tier import Tier
from bench.view import View
from bench.waiting import until_done
from moorage.api.facts import ResolvedModel
from moorage.api.modeldeployment import ModelDeployment
from moorage.desired.defaults import Defaults
from moorage.desired.model import resolve
from moorage.desired.serving import children
from support.resources import model_deployment, without_volumes

WORKERS = 16  # the operator's default
ROUNDS = 3
PLACE = "placeholder"
CHILD_PATHS = {
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments/{}",
    "Service": "/api/v1/namespaces/{}/services/{}",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{}/poddisruptionbudgets/{}",
}


class TightClient:
    """Bodies made beforehand; only name and uid are put in."""

    def __init__(self, admin: Api, operator: Api, fleet: Fleet, status: dict[str, Any]) -> None:
        self._admin, self._operator, self._all = admin, operator, fleet.all
        self._resource = orjson.dumps(model_deployment(PLACE, **without_volumes(replicas=REPLICAS)))
        self._children = [
            (CHILD_PATHS[child["kind"]], orjson.dumps(child)) for child in _children(namespace=fleet.all[0][0])
        ]
        self._status = orjson.dumps({"status": status})

    async def run(self) -> None:
        await self._admin.each(self._all, self._one)

    async def _one(self, place: tuple[str, str]) -> None:
        namespace, name = place
        made = await self._admin.call(
            "POST", model_deployments(namespace), self._resource.replace(PLACE.encode(), name.encode()), JSON
        )
        uid = orjson.loads(made)["metadata"]["uid"]
        for path, body in self._children:
            written = body.replace(PLACE.encode(), name.encode()).replace(b"the-uid", uid.encode())
            query = "?fieldManager=moorage&force=true"
            await self._operator.call("PATCH", path.format(namespace, name) + query, written, APPLY_PATCH)
        status = self._status.replace(PLACE.encode(), name.encode())
        await self._operator.call("PATCH", model_deployments(namespace, name, "status"), status, MERGE_PATCH)


def _children(namespace: str) -> list[dict[str, Any]]:
    manifest = model_deployment(PLACE, **without_volumes(replicas=REPLICAS))
    manifest["metadata"] |= {"namespace": namespace, "uid": "the-uid", "generation": 1}
    md = ModelDeployment.parse(manifest)
    model = resolve(md, [])
    assert isinstance(model, ResolvedModel)
    images = Defaults(torch_image="moorage/torch:test", triton_image="moorage/triton:test")
    return children(md, model, REPLICAS, images)


async def compare(tier: Tier, meter: Meter, admin: Api, view: View, count: int) -> list[Row]:
    """Rounds of both, one after the other, so that a machine that is busy for a while is so for both."""
    namespaces = tier.namespaces("limit", 1)
    rounds: list[tuple[Phase, Phase]] = []
    async with (
        Api(tier.kubeconfig, in_flight=WORKERS) as client,
        Api(tier.operator_kubeconfig, in_flight=WORKERS) as rights,
    ):
        fleet = Fleet(client, namespaces, count)
        for number in range(1, ROUNDS + 1):
            async with serving(tier, meter):
                with tier.frozen():
                    async with meter.phase(f"frozen {number}, operator", count) as operator:
                        await asyncio.gather(fleet.create(), view.until_observed(count, 300, meter.tell))
                    status = await _a_status(admin, fleet)
            await _clear(fleet, view, meter)
            with tier.frozen():
                async with meter.phase(f"frozen {number}, tight client", count) as tight:
                    await TightClient(client, rights, fleet, status).run()
            rounds.append((operator, tight))
            await _clear(fleet, view, meter)
    return [
        at_most(
            f"wall against a tight client, controllers frozen, {count} resources",
            1.25,
            median(operator.wall / tight.wall for operator, tight in rounds),
            "×",
        ),
        told("the operator in it", median(operator.wall for operator, _ in rounds), "s"),
        told("the tight client in it", median(tight.wall for _, tight in rounds), "s"),
        told("operator CPU in it, per resource", median(operator.operator_ms for operator, _ in rounds), "ms"),
        # The same work of the same library on the same cores: says how fast these are.
        told("the tight client's CPU in it, per resource", median(tight.bench_ms for _, tight in rounds), "ms"),
        told("writes in it, per resource", median(o.writes() / count for o, _ in rounds), ""),
    ]


@asynccontextmanager
async def serving(tier: Tier, meter: Meter) -> AsyncIterator[None]:
    """An operator that serves and knows of nothing yet."""
    meter.operator = await asyncio.to_thread(lambda: tier.operator().start().until("serves"))
    try:
        await asyncio.sleep(2)  # its watches come up behind its first list
        yield
    finally:
        await asyncio.to_thread(meter.operator.stop)
        meter.operator = None


async def _a_status(admin: Api, fleet: Fleet) -> dict[str, Any]:
    """The first status that the operator writes, for any name."""
    namespace, name = fleet.all[0]
    status = (await admin.get(model_deployments(namespace, name)))["status"]
    anonymous: dict[str, Any] = orjson.loads(orjson.dumps(status).replace(name.encode(), PLACE.encode()))
    return anonymous


async def _clear(fleet: Fleet, view: View, meter: Meter) -> None:
    """For the next round. With the controllers awake again: they collect what was made."""
    await fleet.delete()
    await view.until_gone(60, meter.tell)

    async def left() -> str:
        counts = await fleet.children()
        return ", ".join(f"{n} {kind}" for kind, n in counts.items() if n and kind != "services")

    await until_done(left, 300, meter.tell)
