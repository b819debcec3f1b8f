"""What comes of a reconcile: what is written, what is tried again, and what is left alone."""

import asyncio
from collections.abc import AsyncIterator, Callable
from copy import deepcopy
from typing import Any

import aiohttp
import pytest

from moorage.api.conditions import find
from moorage.kube.errors import ApiError, Conflict, Forbidden, Invalid, NamespaceTerminating, NotFound, Transient
from moorage.kube.kinds import POD, REPLICA_SET, Key, Kind, key_of
from moorage.reconcile.outcome import SOON
from moorage.reconcile.queue import WorkQueue
from moorage.reconcile.reconciler import Reconciler
from moorage.reconcile.replicas import Replicas
from moorage.reconcile.store import Store
from moorage.settings import Settings

KEY = Key("ModelDeployment", "ns", "digits")


class Listing:
    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []


class Api:
    """Takes what it is given, counts versions, and fails when told to."""

    def __init__(self) -> None:
        self.version = 100
        self.objects: dict[Key, dict[str, Any]] = {}
        self.applied: list[Key] = []
        self.statuses: list[dict[str, Any]] = []
        self.lists = 0
        self.fail: Callable[[str], None] = lambda what: None

    async def get(self, kind: Kind, namespace: str, name: str, **_: Any) -> dict[str, Any]:
        found = self.objects.get(Key(kind.kind, namespace, name))
        if found is None:
            raise NotFound("not found")
        return found

    async def list(self, kind: Kind, namespace: str, **_: Any) -> Listing:
        assert kind in (POD, REPLICA_SET)
        self.lists += 1
        return Listing()

    async def apply(self, manifest: dict[str, Any], *, force: bool) -> dict[str, Any]:
        self.fail("apply")
        self.applied.append(key_of(manifest))
        return self._keep(deepcopy(manifest))

    async def patch_status(self, kind: Kind, namespace: str, name: str, patch: dict[str, Any]) -> dict[str, Any]:
        self.fail("status")
        self.statuses.append(patch)
        found = deepcopy(self.objects[Key(kind.kind, namespace, name)])
        found["status"] = _merged(found.get("status") or {}, patch["status"])
        return self._keep(found)

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str, **_: Any) -> None:
        self.objects.pop(Key(kind.kind, namespace, name))

    def _keep(self, obj: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        obj["metadata"] = {"uid": f"u{self.version}", **obj["metadata"], "resourceVersion": str(self.version)}
        self.objects[key_of(obj)] = obj
        return obj


def _merged(old: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    result = dict(old)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            both = isinstance(value, dict) and isinstance(old.get(key), dict)
            result[key] = _merged(old[key], value) if both else value
    return result


class Recorder:
    def __init__(self) -> None:
        self.told: list[str] = []

    async def record(self, _obj: Any, _type: str, reason: str, *_: Any) -> None:
        self.told.append(reason)


class Resync:
    pod_monitors = False


class World:
    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.api, self.store, self.queue, self.recorder = Api(), Store(), WorkQueue(), Recorder()
        replicas = Replicas(self.store, self.queue, measuring=False)
        self.reconciler = Reconciler(
            self.api, self.store, self.queue, self.recorder, Resync(), replicas, session,  # type: ignore[arg-type]
            Settings(), now=lambda: "2026-01-01T00:00:00Z",
        )  # fmt: skip

    def put(self, **more: Any) -> None:
        meta = {"name": "digits", "namespace": "ns", "uid": "o1", "resourceVersion": "1", "generation": 1}
        obj = {
            "apiVersion": "moorage.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {**meta, **more.pop("metadata", {})},
            "spec": {"model": {"uri": "pvc://m/a"}, "runtime": {"torch": {}}, **more},
        }
        self.store.put(obj)
        self.api.objects[KEY] = obj

    async def reconcile(self) -> float | None:
        return await self.reconciler.reconcile(KEY)

    async def attempt(self) -> None:
        await self.reconciler._try(KEY)

    def condition(self, type_: str) -> dict[str, Any]:
        return find(self.api.objects[KEY]["status"]["conditions"], type_) or {}

    def fail(self, error: ApiError, at: str = "apply") -> None:
        def fail(what: str) -> None:
            if what == at:
                raise error

        self.api.fail = fail


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with aiohttp.ClientSession() as session:
        yield World(session)


async def test_children_and_status_are_written_once(world: World) -> None:
    world.put()
    assert await world.reconcile() is None, "what comes next comes with an event"
    assert {key.kind for key in world.api.applied} == {"Deployment", "Service"}
    assert len(world.api.statuses) == 1
    await world.reconcile()
    assert len(world.api.applied) == 2
    assert len(world.api.statuses) == 1


async def test_a_status_is_about_the_version_it_was_made_from(world: World) -> None:
    world.put()
    await world.reconcile()
    assert world.api.statuses[0]["metadata"] == {"resourceVersion": "1"}


async def test_what_is_being_deleted_is_left_alone(world: World) -> None:
    world.put(metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"})
    assert await world.reconcile() is None
    assert (world.api.applied, world.api.statuses, world.api.lists) == ([], [], 0)


async def test_a_child_that_goes_before_we_hear_that_its_owner_does_is_not_made_again(world: World) -> None:
    world.put()
    await world.reconcile()
    owner = world.api.objects[KEY]
    service = world.api.objects.pop(Key("Service", "ns", "digits"))
    world.store.remove(service)
    world.api.objects[KEY] = {**owner, "metadata": {**owner["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}}
    assert await world.reconcile() == SOON
    assert len(world.api.applied) == 2
    world.api.objects[KEY] = owner
    await world.reconcile()
    assert world.api.applied[2:] == [key_of(service)], "somebody else took it"


async def test_many_looks_in_a_row_leave_turns_to_others(world: World) -> None:
    keys = [KEY._replace(name=f"gone-{number}") for number in range(200)]
    for key in keys:
        world.queue.add(key)
    turns = 0
    workers = [asyncio.create_task(world.reconciler._work()) for _ in range(16)]
    while len(world.queue):
        turns += 1
        await asyncio.sleep(0)
    for worker in workers:
        worker.cancel()
    assert turns >= len(keys) / len(workers)


async def test_what_is_gone_is_nothing(world: World) -> None:
    assert await world.reconcile() is None


async def test_a_settled_deployment_costs_no_request(world: World) -> None:
    world.put()
    await world.reconcile()
    live = deepcopy(world.store.get(Key("Deployment", "ns", "digits")))
    assert live is not None
    live["metadata"] |= {"resourceVersion": "500", "generation": 1}
    counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), 1)
    live["status"] = {"observedGeneration": 1, **counts}
    world.store.put(live)
    assert await world.reconcile() is None
    assert world.condition("Ready")["status"] == "True"
    before = (len(world.api.applied), len(world.api.statuses), world.api.lists)
    assert await world.reconcile() is None
    assert (len(world.api.applied), len(world.api.statuses), world.api.lists) == before
    assert world.recorder.told == ["AllReplicasReady"]


async def test_a_refusal_is_shown_and_tried_again_with_patience(world: World) -> None:
    world.put()
    world.fail(Invalid("Deployment.apps is invalid: spec.x: no", status=422))
    with pytest.raises(Invalid):
        await world.reconcile()
    stalled = world.condition("Stalled")
    assert stalled["status"] == "True"
    assert "spec.x: no" in stalled["message"]


async def test_missing_rights_are_shown_and_are_not_final(world: World) -> None:
    world.put()
    world.fail(Forbidden("cannot patch deployments", status=403))
    with pytest.raises(Forbidden):
        await world.reconcile()
    assert world.condition("Stalled")["status"] == "False"
    assert "cannot patch deployments" in world.condition("Ready")["message"]


async def test_a_trouble_of_the_moment_is_not_shown(world: World) -> None:
    world.put()
    world.fail(Transient("busy", retry_after=7))
    with pytest.raises(Transient):
        await world.reconcile()
    assert world.api.statuses == []


@pytest.mark.parametrize("error", [Transient("busy"), Conflict("changed"), Forbidden("no"), Invalid("no")])
async def test_failures_come_again(world: World, error: ApiError) -> None:
    world.put()
    world.fail(error)
    await world.attempt()
    assert KEY in world.queue._timers


async def test_a_bug_is_logged_and_comes_again(world: World) -> None:
    world.put()

    def bug(_what: str) -> None:
        raise ZeroDivisionError

    world.api.fail = bug
    await world.attempt()
    assert KEY in world.queue._timers


def break_serving(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any) -> None:
        raise ZeroDivisionError("division " * 1000)

    monkeypatch.setattr(world.reconciler._serving, "reconcile", broken)


async def test_a_bug_is_told_where_people_look(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.put()
    break_serving(world, monkeypatch)
    await world.attempt()
    ready = world.condition("Ready")
    assert (ready["status"], ready["reason"]) == ("Unknown", "InternalError")
    assert "ZeroDivisionError" in ready["message"] and len(ready["message"]) <= 1024
    assert world.condition("Stalled") == {}
    monkeypatch.undo()
    await world.attempt()
    assert world.condition("Ready")["reason"] != "InternalError"


async def test_a_bug_takes_nothing_back_that_is_known_to_be_well(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = {"type": "Ready", "status": "True", "reason": "x", "message": "", "observedGeneration": 1}
    world.put()
    obj = deepcopy(world.api.objects[KEY]) | {"status": {"conditions": [ready]}}
    obj["metadata"]["resourceVersion"] = "2"
    world.store.put(obj)
    world.api.objects[KEY] = obj
    break_serving(world, monkeypatch)
    await world.attempt()
    assert world.api.statuses == []


async def test_a_namespace_on_its_way_out_is_dropped(world: World) -> None:
    world.put()
    world.fail(NamespaceTerminating("being terminated"))
    await world.attempt()
    assert KEY not in world.queue._timers
    assert world.api.statuses == []


async def test_a_resource_that_went_meanwhile_is_dropped(world: World) -> None:
    world.put()
    world.fail(NotFound("gone"), at="status")
    await world.reconcile()
    assert world.recorder.told == []


async def test_a_deployment_of_a_former_life_is_no_success(world: World) -> None:
    world.put()
    await world.reconcile()
    former = deepcopy(world.store.get(Key("Deployment", "ns", "digits")))
    assert former is not None
    former["metadata"]["ownerReferences"][0]["uid"] = "o0"
    former["metadata"]["resourceVersion"] = "500"
    former["status"] = {
        "observedGeneration": 1,
        "replicas": 1,
        "readyReplicas": 1,
        "availableReplicas": 1,
        "updatedReplicas": 1,
    }
    world.store.put(former)
    assert await world.reconcile() is not None
    assert Key("Deployment", "ns", "digits") not in world.api.objects, "it makes room"
    assert world.condition("Ready")["status"] == "Unknown"


async def test_what_cannot_be_read_is_said(world: World) -> None:
    world.put(runtime={"torch": {"maxBatchSize": "many"}})
    assert await world.reconcile() is None
    assert world.condition("Stalled")["status"] == "True"
    assert world.api.applied == []


async def test_what_is_in_order_is_not_built_again_until_somebody_touches_it(world: World) -> None:
    world.put()
    await world.reconcile()
    await world.reconcile()
    key = Key("Deployment", "ns", "digits")

    def change(**more: Any) -> None:
        obj = deepcopy(world.api.objects[key]) | more
        world.api.version += 1
        obj["metadata"]["resourceVersion"] = str(world.api.version)
        world.store.put(obj)

    known = world.reconciler._serving._children._known[KEY]
    mark = known.mark
    assert mark is not None
    change(status={"replicas": 1})
    await world.reconcile()
    assert known.mark is mark, "a status is no touch"
    applied = len(world.api.applied)
    change(spec={**world.api.objects[key]["spec"], "replicas": 7})
    await world.reconcile()
    assert world.api.applied[applied:] == [key]
