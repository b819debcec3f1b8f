"""Watch events and lists become store entries and keys; what was known already becomes nothing."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from moorage.kube.client import Listing
from moorage.kube.errors import Expired
from moorage.kube.kinds import DEPLOYMENT, Key, Kind
from moorage.reconcile.intake import Intake
from moorage.reconcile.queue import WorkQueue
from moorage.reconcile.store import Store

KEY = Key("ModelDeployment", "ns", "a")


def child(version: int, kind: str = "Service", name: str = "a", namespace: str = "ns") -> dict[str, Any]:
    labels = {"moorage.dev/model-deployment": "a"}
    meta = {"name": name, "namespace": namespace, "uid": name, "resourceVersion": str(version), "labels": labels}
    return {"kind": kind, "apiVersion": "v1", "metadata": meta}


class Api:
    def __init__(self) -> None:
        self.answers: list[list[Listing] | Exception] = []

    async def pages(self, kind: Kind, namespace: str | None, *, labels: str) -> AsyncIterator[Listing]:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        for page in answer:
            yield page


class World:
    def __init__(self) -> None:
        self.api, self.store, self.queue = Api(), Store(), WorkQueue()
        self.intake = Intake(self.api, self.store, self.queue)  # type: ignore[arg-type]

    def versions(self) -> dict[str, int]:
        return {obj["metadata"]["name"]: int(obj["metadata"]["resourceVersion"]) for obj in self.store.of(DEPLOYMENT)}


@pytest.fixture
def world() -> World:
    return World()


async def test_a_change_is_kept_and_its_owner_has_work(world: World) -> None:
    world.intake.event("MODIFIED", child(5))
    assert world.store.get(Key("Service", "ns", "a")) is not None
    assert await world.queue.get() == KEY


@pytest.mark.parametrize("type_", [None, "ADDED", "MODIFIED"])
async def test_the_echo_of_our_own_write_is_no_work(world: World, type_: str | None) -> None:
    world.store.put(child(5))
    world.intake.event(type_, child(5))
    assert len(world.queue) == 0


async def test_a_deletion_is_work_also_of_what_was_not_known(world: World) -> None:
    world.intake.event("DELETED", child(6))
    assert world.store.get(Key("Service", "ns", "a")) is None
    assert await world.queue.get() == KEY


async def test_every_event_is_a_sign_of_life(world: World) -> None:
    world.store.put(child(5))
    world.store.owe(child(5))
    world.intake.event("MODIFIED", child(5))
    assert world.store.lag() == (0, "")


async def test_news_of_pods_is_collected(world: World) -> None:
    for version in range(5):
        world.intake.event("MODIFIED", child(version + 1, kind="Pod"))
    assert len(world.queue) == 0
    assert await world.queue.get() == KEY
    world.queue.done(KEY)
    assert len(world.queue) == 0


async def test_of_a_budget_only_its_wish_counts_and_a_deployments_status_is_collected(world: World) -> None:
    for kind in ("PodDisruptionBudget", "Deployment"):
        world.store.put(child(1, kind))
        world.intake.event("MODIFIED", child(2, kind) | {"status": {"replicas": 1}})
    assert len(world.queue) == 0
    world.intake.event("MODIFIED", child(3, "PodDisruptionBudget") | {"spec": {"maxUnavailable": 7}})
    assert await world.queue.get() == KEY


async def test_a_second_list_of_kopfs_is_noticed(world: World) -> None:
    lists = []
    world.intake.relisted = lambda: lists.append(1)

    def resource(version: int) -> dict[str, Any]:
        return child(version, "ModelDeployment")

    world.intake.event(None, resource(1))
    world.intake.event("MODIFIED", resource(2))
    assert lists == [], "the first list is the beginning"
    world.intake.event(None, resource(2))
    assert lists == [1]
    world.intake.event("DELETED", resource(3))
    world.intake.event("ADDED", resource(4))
    assert lists == [1]


async def test_a_list_of_many_pages_prunes_what_is_on_none_of_them(world: World) -> None:
    for name in ("a", "b", "gone"):
        world.store.put(child(1, "Deployment", name))
    world.store.put(child(12, "Deployment", "made-since"))
    world.api.answers = [
        [Listing([child(3, "Deployment", "a")], 9), Listing([child(1, "Deployment", "b")], 9)],
    ]
    assert await world.intake.list(DEPLOYMENT, None) == 9
    assert world.versions() == {"a": 3, "b": 1, "made-since": 12}


async def test_a_list_that_expires_between_two_pages_begins_again(world: World) -> None:
    world.api.answers = [Expired("too old"), [Listing([child(3, "Deployment")], 9)]]
    assert await world.intake.list(DEPLOYMENT, None) == 9
    assert world.versions() == {"a": 3}


async def test_a_list_of_one_namespace_says_nothing_of_the_others(world: World) -> None:
    world.store.put(child(1, "Deployment"))
    world.store.put(child(2, "Deployment", namespace="other"))
    world.api.answers = [[Listing([], 9)]]
    await world.intake.list(DEPLOYMENT, "ns")
    assert [obj["metadata"]["namespace"] for obj in world.store.of(DEPLOYMENT)] == ["other"]
