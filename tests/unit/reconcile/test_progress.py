"""Progress of running trainings: asked of all, waited for by none."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from moorage.kube.kinds import Key
from moorage.reconcile.progress import ProgressWatch, progress_url

A, B = Key("TrainingJob", "ns", "a"), Key("TrainingJob", "ns", "b")


class Workers:
    def __init__(self) -> None:
        self.says: dict[str, Any] = {}

    async def handle(self, request: web.Request) -> web.StreamResponse:
        said = self.says.get(request.match_info["name"])
        return web.Response(status=503) if said is None else web.Response(text=said)


@pytest.fixture
async def workers() -> AsyncIterator[tuple[Workers, ProgressWatch, asyncio.Queue[Key]]]:
    workers, changed = Workers(), asyncio.Queue[Key]()
    app = web.Application()
    app.router.add_get("/{name}/progress", workers.handle)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        watch = ProgressWatch(session, changed.put_nowait, lambda key: str(server.make_url(f"/{key.name}/progress")))
        running = asyncio.create_task(watch.run(0.02))
        yield workers, watch, changed
        running.cancel()


Fixture = tuple[Workers, ProgressWatch, "asyncio.Queue[Key]"]


async def test_a_change_is_told_once(workers: Fixture) -> None:
    said, watch, changed = workers
    watch.follow(A)
    said.says["a"] = '{"step": 1}'
    assert await asyncio.wait_for(changed.get(), 5) == A
    assert watch.last(A) == {"step": 1}
    said.says["a"] = '{"step": 2}'
    await asyncio.wait_for(changed.get(), 5)
    await asyncio.sleep(0.2)
    assert changed.empty()


async def test_workers_that_say_nothing_or_nonsense_are_left_alone(workers: Fixture) -> None:
    said, watch, changed = workers
    watch.follow(A)
    watch.follow(B)
    said.says["a"] = "<html>"
    said.says["b"] = '{"step": 1}'
    assert await asyncio.wait_for(changed.get(), 5) == B
    assert watch.last(A) is None


async def test_what_was_known_stays_while_a_worker_is_away(workers: Fixture) -> None:
    said, watch, changed = workers
    watch.follow(A)
    said.says["a"] = '{"step": 1}'
    await asyncio.wait_for(changed.get(), 5)
    del said.says["a"]
    await asyncio.sleep(0.1)
    assert watch.last(A) == {"step": 1}
    watch.leave(A)
    assert watch.last(A) is None


def test_the_first_worker_is_asked() -> None:
    assert progress_url(A) == "http://a-train-0.a-train.ns.svc:8080/progress"
