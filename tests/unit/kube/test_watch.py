"""A watch goes on where it was after every break, lists anew when the server has forgotten, and says how it is."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio.client import Configuration

from moorage.kube import watch as module
from moorage.kube.client import Client
from moorage.kube.kinds import POD
from moorage.kube.watch import Watch

Event = dict[str, Any]
GONE = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}}


def event(version: int, type_: str = "MODIFIED", **more: Any) -> Event:
    return {"type": type_, "object": {"metadata": {"name": "p", "resourceVersion": str(version)}, **more}}


class World:
    """A server that has one answer for each watch: events to send, or a status to refuse with."""

    def __init__(self) -> None:
        self.answers: list[list[Event] | int] = []
        self.asked: list[dict[str, str]] = []
        self.taken: list[tuple[str, int]] = []
        self.known: list[int] = []
        self.mended = 0
        self.lists = 0
        self.largest = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(dict(request.query))
        answer = self.answers.pop(0) if self.answers else []
        if isinstance(answer, int):
            return web.json_response({"kind": "Status", "message": "no"}, status=answer)
        response = web.StreamResponse()
        await response.prepare(request)
        for one in answer:
            await response.write(json.dumps(one).encode() + b"\n")
        if not self.answers:
            await asyncio.sleep(30)
        return response

    async def relist(self) -> int:
        self.lists += 1
        return 50

    def take(self, type_: str, obj: dict[str, Any]) -> None:
        assert (obj["kind"], obj["apiVersion"]) == ("Pod", "v1")
        self.largest = max(self.largest, len(json.dumps(obj)))
        self.taken.append((type_, int(obj["metadata"]["resourceVersion"])))

    def mend(self) -> None:
        self.mended += 1

    async def until(self, what: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not what():  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(module, "FIRST_WAIT", 0.01)
    return World()


@pytest.fixture
async def watch(world: World) -> AsyncIterator[Watch]:
    app = web.Application()
    app.router.add_get("/api/v1/pods", world.answer)
    async with TestServer(app) as server:
        client = Client(Configuration(host=str(server.make_url("")).rstrip("/")), request_timeout=5)
        watch = Watch(
            client, POD, None, "app=x",
            since=7, relist=world.relist, take=world.take, reached=world.known.append, mended=world.mend,
        )  # fmt: skip
        yield watch
        await client.close()


@contextlib.asynccontextmanager
async def running(watch: Watch) -> AsyncIterator[None]:
    task = asyncio.create_task(watch.run())
    yield
    task.cancel()


async def test_it_goes_on_from_the_last_version_bookmarks_included(world: World, watch: Watch) -> None:
    world.answers = [[event(8, "ADDED"), event(9, "DELETED"), event(12, "BOOKMARK")], [event(13)]]
    async with running(watch):
        await world.until(lambda: len(world.taken) == 3)
    assert world.taken == [("ADDED", 8), ("DELETED", 9), ("MODIFIED", 13)]
    assert [asked["resourceVersion"] for asked in world.asked] == ["7", "12"]
    assert {asked["labelSelector"] for asked in world.asked} == {"app=x"}
    assert world.lists == world.mended == 0
    assert world.known == [7, 12], "what the list and the bookmark had is owed by nobody"


@pytest.mark.parametrize("forgotten", [410, [GONE]], ids=["at once", "in the stream"])
async def test_a_version_that_is_too_old_means_a_new_list(world: World, watch: Watch, forgotten: Any) -> None:
    world.answers = [forgotten, [event(51)]]
    async with running(watch):
        await world.until(lambda: bool(world.taken))
    assert world.lists == 1
    assert [asked["resourceVersion"] for asked in world.asked] == ["7", "50"]


async def test_a_break_is_known_until_it_is_mended(world: World, watch: Watch) -> None:
    world.answers = [500, 403, [event(8)]]
    async with running(watch):
        await world.until(lambda: watch.broken_for > 0)
        await world.until(lambda: bool(world.taken))
    assert watch.broken_for == 0
    assert (world.mended, world.lists, watch.error) == (1, 0, "no")


async def test_an_object_may_be_larger_than_a_line(world: World, watch: Watch) -> None:
    world.answers = [[event(8, data="x" * 5_000_000), event(9)]]
    async with running(watch):
        await world.until(lambda: len(world.taken) == 2)
    assert world.largest > 5_000_000
