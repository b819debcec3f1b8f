"""Servers are asked once how they started, by whoever is ready; what does not answer is left alone."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from moorage.kube.kinds import Key
from moorage.reconcile import servers as servers_module
from moorage.reconcile.servers import AT_ONCE, Servers, metrics_url
from moorage.status.cold_start import ServerTimes
from unit.status.objects import pod

KEY = Key("ModelDeployment", "ns", "d")
METRICS = """# TYPE moorage_server_model_load_seconds gauge
moorage_server_model_load_seconds{model="d",version="1"} 2.5
# TYPE moorage_server_warm_up_seconds gauge
moorage_server_warm_up_seconds{model="d",version="1"} 0.5
# TYPE moorage_server_forward_rows_per_second gauge
moorage_server_forward_rows_per_second{rows="64"} 9000.5
moorage_server_forward_rows_per_second{rows="1"} 900.0
"""


class World:
    def __init__(self) -> None:
        self.text, self.status, self.asked = METRICS, 200, 0
        self.changed: list[Key] = []

    async def answer(self, _request: web.Request) -> web.Response:
        self.asked += 1
        return web.Response(text=self.text, status=self.status)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def servers(world: World) -> AsyncIterator[Servers]:
    app = web.Application()
    app.router.add_get("/metrics", world.answer)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        yield Servers(session, world.changed.append, lambda _: str(server.make_url("/metrics")))


def ready(name: str = "d-1") -> dict[str, Any]:
    return pod(name, ready=True, podIP="10.0.0.1")


async def rest(servers: Servers) -> None:
    while servers._tasks:
        await asyncio.wait(servers._tasks)


async def test_a_ready_pod_is_asked_once(world: World, servers: Servers) -> None:
    for _ in range(3):
        servers.ask(KEY, [ready(), pod("d-2", podIP="10.0.0.2")])
        await rest(servers)
    assert servers.told(KEY) == {"d-1": ServerTimes(2.5, 0.5, ((1, 900.0), (64, 9000.5)))}
    assert (world.asked, world.changed) == (1, [KEY])


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (404, METRICS),
        (200, "no metrics { at all"),
        (200, "other 1\n"),
        (200, METRICS.replace('"64"', '"many"')),
        (200, "x" * 2_000_000),
    ],
)
async def test_what_is_no_answer_changes_nothing(world: World, servers: Servers, status: int, text: str) -> None:
    world.status, world.text = status, text
    servers.ask(KEY, [ready()])
    await rest(servers)
    assert (dict(servers.told(KEY)), world.changed) == ({}, [])


async def test_numbers_that_make_no_sense_are_left_out(world: World, servers: Servers) -> None:
    world.text = METRICS.replace("9000.5", "1e300").replace("900.0", "NaN")
    servers.ask(KEY, [ready()])
    await rest(servers)
    assert servers.told(KEY) == {"d-1": ServerTimes(2.5, 0.5)}


async def test_several_models_have_no_speed_together_and_those_that_failed_are_told(
    world: World, servers: Servers
) -> None:
    speed = 'moorage_server_forward_rows_per_second{model="%s",rows="1",version="1"} 900.0\n'
    failed = 'moorage_server_model_failed{model="%s",reason="%s",version="1"} 1.0\n'
    world.text = METRICS.partition("# TYPE moorage_server_forward")[0] + "".join(
        [speed % "a", speed % "b", failed % ("d", "ModelNotFound"), failed % ("c", "ModelCorrupt")]
    )
    servers.ask(KEY, [ready()])
    await rest(servers)
    assert servers.told(KEY) == {"d-1": ServerTimes(2.5, 0.5, (), (("c", "ModelCorrupt"), ("d", "ModelNotFound")))}


async def test_where_more_depends_on_it_it_is_asked_again(
    world: World, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers_module, "AGAIN_SECONDS", 0.01)
    world.status = 503
    servers.ask(KEY, [ready()], tries=3)
    await rest(servers)
    assert world.asked == 3
    assert dict(servers.told(KEY)) == {}


async def test_an_answer_that_comes_after_the_end_is_forgotten(world: World, servers: Servers) -> None:
    servers.ask(KEY, [ready()])
    servers.leave(KEY)
    await rest(servers)
    assert (dict(servers.told(KEY)), world.changed) == ({}, [])


async def test_of_many_that_start_at_once_a_few_at_a_time_are_asked(world: World, servers: Servers) -> None:
    other = KEY._replace(name="other")
    servers.ask(KEY, [ready(f"d-{number}") for number in range(2 * AT_ONCE)])
    servers.ask(other, [ready(f"o-{number}") for number in range(AT_ONCE)])
    servers.leave(other)
    assert len(servers._tasks) == AT_ONCE
    await rest(servers)
    assert world.asked == len(servers.told(KEY)) == 2 * AT_ONCE


def test_addresses_of_both_families() -> None:
    assert metrics_url(pod(podIP="10.0.0.1")).partition("?")[0] == "http://10.0.0.1:8082/metrics"
    assert metrics_url(pod(podIP="fd00::1")).partition("?")[0] == "http://[fd00::1]:8082/metrics"
