"""Many ModelDeployments with three children each: made, changed, deleted, as fast as the API server takes it."""

from collections.abc import Sequence

from bench.client import Api, model_deployments
from support.resources import model_deployment, without_volumes

# Some controllers of Kubernetes look at all objects of a namespace for each pod: with 10,000 in one that is all we see.
PER_NAMESPACE = 100
REPLICAS = 2  # with one there would be no PodDisruptionBudget
CHILDREN = {
    "deployments": "/apis/apps/v1/deployments",
    "services": "/api/v1/services",
    "poddisruptionbudgets": "/apis/policy/v1/poddisruptionbudgets",
    "pods": "/api/v1/pods",
}


class Fleet:
    def __init__(self, api: Api, namespaces: Sequence[str], count: int) -> None:
        self._api = api
        self.all = [(namespaces[number % len(namespaces)], f"model-{number:05}") for number in range(count)]

    async def create(self) -> None:
        async def one(place: tuple[str, str]) -> None:
            namespace, name = place
            manifest = model_deployment(name, **without_volumes(replicas=REPLICAS))
            await self._api.post(model_deployments(namespace), manifest)

        await self._api.each(self.all, one)

    async def change_templates(self) -> None:
        """What rolls every pod."""
        patch = {"spec": {"podTemplate": {"metadata": {"annotations": {"bench.moorage.dev/edition": "2"}}}}}
        await self._api.each(self.all, lambda place: self._api.patch(model_deployments(*place), patch))

    async def delete(self) -> None:
        await self._api.each(self.all, lambda place: self._api.delete(model_deployments(*place)))

    async def children(self) -> dict[str, int]:
        """How many there are in the whole cluster."""
        return {name: await self._api.count(path) for name, path in CHILDREN.items()}


def namespaces_for(count: int) -> int:
    return -(-count // PER_NAMESPACE)
