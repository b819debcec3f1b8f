"""A training runs once at a time, and its status tells of this run alone."""

from copy import deepcopy
from typing import Any

import aiohttp
import pytest

from moorage.api.conditions import find
from moorage.desired.defaults import Defaults
from moorage.kube.errors import NotFound
from moorage.kube.kinds import JOB, POD, Key, Kind, key_of
from moorage.reconcile.children import Children
from moorage.reconcile.eventreader import EventReader
from moorage.reconcile.outcome import SOON, Outcome
from moorage.reconcile.progress import ProgressWatch
from moorage.reconcile.store import Store
from moorage.reconcile.training import Training
from unit.status.objects import NOW, worker

KEY = Key("TrainingJob", "ns", "t")
JOB_KEY = Key("Job", "ns", "t-train")
RESULT = {"reason": "Succeeded", "output": {"uri": "pvc://m/old"}, "metrics": {"accuracy": 0.5}}


class Listing:
    def __init__(self, items: list[dict[str, Any]]) -> None:
        self.items = items


class Api:
    def __init__(self) -> None:
        self.version = 100
        self.pods: list[dict[str, Any]] = []
        self.applied: list[dict[str, Any]] = []
        self.deleted: list[tuple[Key, bool]] = []

    async def get(self, kind: Kind, namespace: str, name: str) -> dict[str, Any]:
        raise NotFound("not found")

    async def list(self, kind: Kind, namespace: str, *, labels: str) -> Listing:
        assert (kind, namespace, labels) == (POD, "ns", "moorage.dev/training-job=t")
        return Listing(deepcopy(self.pods))

    async def apply(self, manifest: dict[str, Any], *, force: bool) -> dict[str, Any]:
        self.version += 1
        meta = {**manifest["metadata"], "uid": f"u{self.version}", "resourceVersion": str(self.version)}
        answer = {**deepcopy(manifest), "metadata": meta}
        self.applied.append(answer)
        return answer

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str, after_dependents: bool) -> None:
        self.deleted.append((Key(kind.kind, namespace, name), after_dependents))


class World:
    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.api, self.store = Api(), Store()
        self.children = Children(self.api, self.store)  # type: ignore[arg-type]
        self.training = Training(
            self.api, self.store, self.children, ProgressWatch(session, lambda _: None),  # type: ignore[arg-type]
            EventReader(self.api), lambda: Defaults(torch_image="torch", triton_image="triton"),
        )  # fmt: skip

    async def reconcile(self, status: dict[str, Any] | None = None, **spec: Any) -> Outcome:
        obj = {
            "apiVersion": "moorage.dev/v1alpha1",
            "kind": "TrainingJob",
            "metadata": {"name": "t", "namespace": "ns", "uid": "o2", "resourceVersion": "1", "generation": 1},
            "spec": {"trainer": {"script": {"command": ["x"]}}, **spec},
            "status": status or {},
        }
        return await self.training.reconcile(KEY, obj, NOW)

    @property
    def jobs(self) -> list[dict[str, Any]]:
        return [manifest for manifest in self.api.applied if manifest["kind"] == JOB.kind]

    def job(self, **status: Any) -> dict[str, Any]:
        """The Job as the Job controller has it by now."""
        self.api.version += 1
        found = deepcopy(self.store.get(JOB_KEY))
        assert found is not None
        found["metadata"]["resourceVersion"] = str(self.api.version)
        found["status"] = status
        self.store.put(found)
        return found


@pytest.fixture
async def world() -> Any:
    async with aiohttp.ClientSession() as session:
        yield World(session)


def pod(job: str, name: str = "", **more: Any) -> dict[str, Any]:
    found = worker(0, **more)
    found["kind"] = POD.kind
    if name:
        found["metadata"] |= {"name": name, "uid": name}
    owner = {"kind": "Job", "name": "t-train", "uid": job, "controller": True}
    found["metadata"] |= {"ownerReferences": [owner], "resourceVersion": "9", "managedFields": [{"manager": "x"}]}
    return found


def succeeded(outcome: Outcome) -> dict[str, Any]:
    return find(outcome.status["conditions"], "Succeeded") or {}


async def test_a_run_does_not_begin_while_workers_of_an_earlier_one_are_stopped(world: World) -> None:
    leaving = pod("former")
    leaving["metadata"]["deletionTimestamp"] = NOW
    world.api.pods = [leaving]
    outcome = await world.reconcile()
    assert world.jobs == []
    assert (succeeded(outcome)["status"], succeeded(outcome)["reason"]) == ("Unknown", "WaitingForFormerWorkers")
    assert leaving["metadata"]["name"] in succeeded(outcome)["message"]
    assert outcome.again == SOON, "no watch tells when a pod is gone"
    assert [key_of(manifest).kind for manifest in world.api.applied] == ["Service"]

    world.api.pods = [pod("former", phase="Failed", code=1)]
    await world.reconcile()
    assert len(world.jobs) == 1


async def test_a_job_that_makes_room_goes_after_its_workers(world: World) -> None:
    await world.reconcile()
    await world.reconcile(resources={"requests": {"cpu": "2"}})
    assert world.api.deleted == [(JOB_KEY, True)]


async def test_workers_of_an_earlier_run_tell_nothing_of_this_one(world: World) -> None:
    world.store.put(pod("former", name="a", phase="Succeeded", code=0, message=RESULT))
    world.store.put(pod("former", name="b", phase="Failed", code=1, message={"reason": "ScriptFailed", "message": "x"}))
    await world.reconcile()
    status = (await world.reconcile()).status
    assert not {"output", "metrics", "lastFailure"} & set(status)
    assert status["activeWorkers"] == 0

    uid = world.job(startTime="2026-01-01T11:00:00Z", active=1)["metadata"]["uid"]
    world.store.put(pod(uid, name="c"))
    assert (await world.reconcile()).status["activeWorkers"] == 1


async def test_an_end_that_was_not_written_down_is_not_tried_without_pause(world: World) -> None:
    await world.reconcile()
    done = {"type": "Complete", "status": "True", "lastTransitionTime": NOW}
    world.job(startTime="2026-01-01T11:00:00Z", completionTime=NOW, conditions=[done])
    outcome = await world.reconcile()
    assert outcome.status["completionTime"] == NOW
    assert outcome.again == SOON


async def test_what_is_known_of_children_goes_with_their_owner(world: World) -> None:
    async def otherwise(manifest: dict[str, Any], *, force: bool) -> dict[str, Any]:
        return await Api.apply(world.api, {**manifest, "spec": {}}, force=force)

    world.api.apply = otherwise  # type: ignore[method-assign]
    await world.reconcile()
    assert set(world.children._known) == {KEY}
    world.training.leave(KEY)
    assert world.children._known == {}
