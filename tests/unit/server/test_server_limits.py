"""What a server turns away, and when: a full queue, a model not loaded yet, a client that went away."""

import asyncio
from pathlib import Path
from typing import Any

import httpx

from .conftest import Server, Start, fp32

BODY: dict[str, Any] = {"inputs": [fp32([[1.0, 2.0]])]}


def ask_many(server: Server, count: int) -> list[httpx.Response]:
    async def run() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=server.url, timeout=120, limits=httpx.Limits(max_connections=count)) as c:
            return await asyncio.gather(*(c.post(server.infer_path, json=BODY) for _ in range(count)))

    return asyncio.run(run())


def test_a_full_queue_answers_429(start_server: Start, slow: Path) -> None:
    server = start_server(slow, MOORAGE_MAX_QUEUE_SIZE="2", MOORAGE_MAX_BATCH_SIZE="1")
    answers = ask_many(server, 20)
    codes = [answer.status_code for answer in answers]
    assert set(codes) == {200, 429}
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["error"] == "2 requests wait already; try again later"
    metrics = server.metrics()
    name = 'moorage_server_requests_total{code="%s",model="digits",version="1"}'
    assert metrics[name % 429] == codes.count(429)
    assert metrics[name % 200] == codes.count(200)
    assert server.terminate() == 0


def test_while_loading(start_server: Start, tmp_path: Path) -> None:
    # 30 GB without a block on disk: checking its digest takes longer than this test.
    with (tmp_path / "model.pt2").open("wb") as file:
        file.truncate(30_000_000_000)
    server = start_server(tmp_path, ready=False, MOORAGE_MODEL_SHA256="0" * 64)
    server.ports = server.wait_for("listening")
    with httpx.Client(base_url=server.url, timeout=120) as client:
        assert client.get("/v2/health/live").status_code == 200
        ready, infer = client.get("/v2/health/ready"), client.post(server.infer_path, json=BODY)
        assert (ready.status_code, infer.status_code) == (503, 503)
        assert infer.json()["error"] == "the model is still loading"
        assert infer.headers["retry-after"] == "1"
        assert client.get(f"/v2/models/{server.name}/ready").status_code == 503
        assert client.get(f"/v2/models/{server.name}").status_code == 503
        assert client.get("/v2/models/other").status_code == 404
    # Nothing is in flight, so there is nothing to drain.
    assert server.terminate() == 0
    assert not server.termination_file.exists()


def test_what_nobody_waits_for_leaves_the_queue(start_server: Start, slow: Path) -> None:
    server = start_server(slow, MOORAGE_MAX_BATCH_SIZE="1")

    async def impatient() -> None:
        async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
            tasks = [asyncio.create_task(client.post(server.infer_path, json=BODY)) for _ in range(60)]
            while server.metrics()["moorage_server_queue_size"] < 30:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(impatient())
    assert ask_many(server, 1)[0].status_code == 200
    metrics = server.metrics()
    assert metrics['moorage_server_requests_total{code="499",model="digits",version="1"}'] >= 30
    # Only those ran that were in the model, or through it, when their clients went away.
    assert metrics["moorage_server_batch_size_count"] <= 31
    assert metrics["moorage_server_requests_in_flight"] == metrics["moorage_server_queue_size"] == 0
    assert server.terminate() == 0
