"""SIGTERM: nobody who is being served notices."""

import asyncio
import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx

from .conftest import FEATURES, Server, Start, fp32

BODY: dict[str, Any] = {"inputs": [fp32([[0.5] * FEATURES])]}
SLOW: dict[str, Any] = {"inputs": [fp32([[1.0, 2.0]])]}


async def until_closed(client: httpx.AsyncClient, server: Server, pause: float, answers: list[int]) -> None:
    """Asks again and again, until an answer says that this connection is closing, as a balancer's client would."""
    async with asyncio.timeout(120):
        while True:
            response = await client.post(server.infer_path, json=BODY)
            answers.append(response.status_code)
            if response.headers.get("connection") == "close":
                return
            await asyncio.sleep(pause)


def test_under_load_no_request_fails(start_server: Start, classifier: Path) -> None:
    server = start_server(classifier)
    answers: list[int] = []

    async def load() -> None:
        clients = [httpx.AsyncClient(base_url=server.url, timeout=120) for _ in range(20)]
        # Busy connections, and some that are idle most of the time.
        tasks = [
            asyncio.create_task(until_closed(client, server, 0.3 if i % 4 == 0 else 0, answers))
            for i, client in enumerate(clients)
        ]
        await asyncio.sleep(1)
        server.process.send_signal(signal.SIGTERM)
        await asyncio.gather(*tasks)  # an error of any client fails the test
        for client in clients:
            await client.aclose()

    asyncio.run(load())
    assert set(answers) == {200}
    assert server.process.wait(120) == 0
    assert server.wait_for("drained")["cut_off"] == 0


def test_while_requests_come_all_are_served_and_readiness_is_off(start_server: Start, classifier: Path) -> None:
    server = start_server(classifier)
    kept = httpx.Client(base_url=server.url, timeout=120)
    assert kept.get("/v2/health/ready").status_code == 200
    done = threading.Event()
    codes: list[tuple[int, str]] = []

    def others() -> None:
        """Clients that have not heard yet, each on a connection of its own."""
        while not done.is_set():
            response = httpx.post(server.url + server.infer_path, json=BODY, timeout=120)
            codes.append((response.status_code, response.headers.get("connection", "")))

    thread = threading.Thread(target=others)
    thread.start()
    try:
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("draining")
        for path, status in (("/v2/health/ready", 503), ("/v2/models/digits/ready", 503), ("/v2/health/live", 200)):
            response = httpx.get(server.url + path, timeout=120)
            assert (response.status_code, response.headers["connection"]) == (status, "close")
        response = kept.post(server.infer_path, json=BODY)
        assert (response.status_code, response.headers["connection"]) == (200, "close")
    finally:
        done.set()
        thread.join(60)
    assert codes[-1] == (200, "close")
    assert {code for code, _ in codes} == {200}
    assert server.process.wait(120) == 0


def test_requests_in_flight_finish(start_server: Start, slow: Path) -> None:
    server = start_server(slow, MOORAGE_MAX_BATCH_SIZE="1")
    answers: list[int] = []

    def ask() -> None:
        answers.append(httpx.post(server.url + server.infer_path, json=SLOW, timeout=120).status_code)

    threads = [threading.Thread(target=ask) for _ in range(10)]
    for thread in threads:
        thread.start()
    while server.metrics()["moorage_server_requests_in_flight"] < 5 and len(answers) < 5:
        time.sleep(0.01)
    assert server.terminate() == 0
    for thread in threads:
        thread.join(30)
    assert answers == [200] * 10


def test_time_runs_out(start_server: Start, slow: Path) -> None:
    """More work than the drain may take: the rest is told so, and the server ends all the same."""
    server = start_server(slow, MOORAGE_MAX_BATCH_SIZE="1", MOORAGE_DRAIN_TIMEOUT_SECONDS="2")

    async def ask() -> list[int]:
        async with httpx.AsyncClient(base_url=server.url, timeout=120, limits=httpx.Limits(max_connections=400)) as c:
            tasks = [asyncio.create_task(c.post(server.infer_path, json=SLOW)) for _ in range(400)]
            while server.metrics()["moorage_server_requests_in_flight"] < 300:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            server.process.send_signal(signal.SIGTERM)
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            return [answer.status_code for answer in answers if isinstance(answer, httpx.Response)]

    codes = asyncio.run(ask())
    assert set(codes) == {200, 503}
    assert server.process.wait(120) == 0
    assert server.wait_for("drained")["cut_off"] > 0


def test_a_second_sigterm_ends_it_at_once(start_server: Start, slow: Path) -> None:
    server = start_server(slow, MOORAGE_DRAIN_TIMEOUT_SECONDS="60")
    server.process.send_signal(signal.SIGTERM)
    server.wait_for("draining")
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(120) == 75
    assert not [line for line in server.log if line["event"] == "drained"]
