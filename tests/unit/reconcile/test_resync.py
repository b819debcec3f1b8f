"""A resync while reconciles go on: what it does not know yet must not change what they see."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from moorage.kube.client import Listing
from moorage.kube.errors import Forbidden, NotFound, Transient
from moorage.kube.kinds import MODEL_DEPLOYMENT, POD_MONITOR, Kind
from moorage.reconcile.intake import Intake
from moorage.reconcile.queue import WorkQueue
from moorage.reconcile.resync import Resync
from moorage.reconcile.store import Store


class Api:
    def __init__(self) -> None:
        self.served = True
        self.error: Exception | None = None
        self.resync: Resync | None = None
        self.seen: list[bool] = []
        self.items: list[dict[str, Any]] = []

    async def serves(self, kind: Kind) -> bool:
        self._look(kind)
        return self.served

    async def pages(self, kind: Kind, *_: Any, **__: Any) -> AsyncIterator[Listing]:
        self._look(kind)
        if kind is POD_MONITOR and self.error is not None:
            raise self.error
        yield Listing(self.items if kind is MODEL_DEPLOYMENT else [], 1)

    def _look(self, kind: Kind) -> None:
        """What a reconcile would see while this request is on its way."""
        if kind is POD_MONITOR and self.resync is not None:
            self.seen.append(self.resync.pod_monitors)


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def resync(api: Api) -> Resync:
    store, queue = Store(), WorkQueue()
    intake = Intake(api, store, queue)  # type: ignore[arg-type]
    api.resync = Resync(api, store, queue, intake, (), pod_monitors=True)  # type: ignore[arg-type]
    return api.resync


async def test_pod_monitors_are_not_forgotten_while_they_are_listed(api: Api, resync: Resync) -> None:
    await resync.once()
    assert resync.pod_monitors
    api.seen.clear()
    await resync.once()
    assert api.seen == [True, True]


async def test_a_failed_look_changes_nothing(api: Api, resync: Resync) -> None:
    await resync.once()
    api.error = Transient("busy")
    with pytest.raises(Transient):
        await resync.once()
    assert resync.pod_monitors


@pytest.mark.parametrize("error", [NotFound("gone"), Forbidden("no")])
async def test_without_the_kind_or_the_right_there_are_none(api: Api, resync: Resync, error: Exception) -> None:
    await resync.once()
    api.error = error
    await resync.once()
    assert not resync.pod_monitors
    api.error, api.served = None, False
    await resync.once()
    assert not resync.pod_monitors


async def test_only_news_makes_work_once_all_have_been_looked_at(api: Api, resync: Resync) -> None:
    queue = resync._queue

    async def looked_at() -> list[str]:
        names = []
        while len(queue):
            key = await queue.get()
            queue.done(key)
            names.append(key.name)
        return sorted(names)

    api.items = [listed("a", 1), listed("b", 1)]
    await resync.once()
    assert await looked_at() == ["a", "b"]
    await resync.once(everyone=False)
    assert await looked_at() == []
    api.items = [listed("a", 1), listed("b", 2), listed("c", 3)]
    await resync.once(everyone=False)
    assert await looked_at() == ["b", "c"]
    api.served = False  # then all of them have a child too many
    await resync.once(everyone=False)
    assert await looked_at() == ["a", "b", "c"]


def listed(name: str, version: int) -> dict[str, Any]:
    meta = {"namespace": "n", "name": name, "uid": name, "resourceVersion": str(version)}
    return {"apiVersion": MODEL_DEPLOYMENT.api_version, "kind": MODEL_DEPLOYMENT.kind, "metadata": meta, "spec": {}}
