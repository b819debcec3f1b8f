"""What Prometheus may answer, and what each answer means."""

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from moorage.scaling.prometheus import Prometheus, PrometheusError, Sample


class Answer:
    def __init__(self) -> None:
        self.body: Any = {}
        self.status = 200
        self.queries: list[str] = []

    async def handle(self, request: web.Request) -> web.Response:
        self.queries.append(str((await request.post())["query"]))
        if isinstance(self.body, str):
            return web.Response(text=self.body, status=self.status)
        return web.json_response(self.body, status=self.status)


@pytest.fixture
async def answer() -> AsyncIterator[Answer]:
    yield Answer()


@pytest.fixture
async def prometheus(answer: Answer) -> AsyncIterator[Prometheus]:
    app = web.Application()
    app.router.add_post("/api/v1/query", answer.handle)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        yield Prometheus(session, str(server.make_url("")).rstrip("/"), 5)


def success(kind: str, result: Any) -> dict[str, Any]:
    return {"status": "success", "data": {"resultType": kind, "result": result}}


async def test_a_vector_is_a_sample_for_each_series(answer: Answer, prometheus: Prometheus) -> None:
    answer.body = success("vector", [{"metric": {"namespace": "ns"}, "value": [1.0, "13.5"]}])
    assert await prometheus.instant("up") == [Sample({"namespace": "ns"}, 13.5)]
    assert answer.queries == ["up"]


async def test_a_scalar_is_one_sample(answer: Answer, prometheus: Prometheus) -> None:
    answer.body = success("scalar", [1.0, "3"])
    assert await prometheus.instant("3") == [Sample({}, 3.0)]


@pytest.mark.parametrize(
    ("status", "body", "reason", "words"),
    [
        (400, {"status": "error", "error": "parse error: unexpected end"}, "BadQuery", "unexpected end"),
        (422, {"status": "error", "error": "many-to-many matching"}, "BadQuery", "many-to-many"),
        (503, {"status": "error", "error": "TSDB not ready"}, "PrometheusError", "not ready"),
        (502, "<html>Bad Gateway</html>", "PrometheusError", "502"),
        (200, success("matrix", []), "BadQuery", "instant vector"),
        (200, success("vector", [{"metric": {}}]), "PrometheusError", "something else than numbers"),
    ],
)
async def test_every_other_answer_says_whose_fault_it_is(
    answer: Answer, prometheus: Prometheus, status: int, body: Any, reason: str, words: str
) -> None:
    answer.status, answer.body = status, body
    with pytest.raises(PrometheusError, match=words) as error:
        await prometheus.instant("up")
    assert error.value.reason == reason


async def test_nobody_there_is_out_of_reach() -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(PrometheusError, match="out of reach") as error:
            await Prometheus(session, "http://127.0.0.1:9", 5).instant("up")
    assert error.value.reason == "PrometheusUnreachable"
