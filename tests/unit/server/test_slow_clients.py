"""Clients that send slowly, or much at once: each is bounded, and the others are served."""

import contextlib
import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from .conftest import FEATURES, Server, Start, fp32

BODY = json.dumps({"inputs": [fp32([[0.5] * FEATURES])]}).encode()


@pytest.fixture(scope="module")
def impatient(start_server: Start, classifier: Path) -> Server:
    """A second for a head or a body, three for nothing at all."""
    return start_server(
        classifier,
        MOORAGE_HEADER_TIMEOUT_SECONDS="1",
        MOORAGE_BODY_TIMEOUT_SECONDS="1",
        MOORAGE_IDLE_TIMEOUT_SECONDS="3",
    )


@pytest.fixture(scope="module")
def small(start_server: Start, classifier: Path) -> Server:
    """Room for 150,000 bytes of bodies."""
    return start_server(classifier, MOORAGE_MAX_BODY_BYTES="100000", MOORAGE_MAX_TOTAL_BODY_BYTES="150000")


@contextlib.contextmanager
def connection(server: Server, port: str = "http") -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.ports[port]), timeout=30) as opened:
        yield opened


def head(server: Server, length: int | None) -> bytes:
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return f"POST {server.infer_path} HTTP/1.1\r\nHost: x\r\n{size}\r\n\r\n".encode()


def answer(opened: socket.socket) -> tuple[int, dict[str, str], dict[str, Any]]:
    with opened.makefile("rb") as file:
        status = int(file.readline().split()[1])
        headers = {}
        while line := file.readline().decode().strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        return status, headers, json.loads(file.read(int(headers["content-length"])))


def trickle(opened: socket.socket, part: bytes, seconds: float = 20) -> float:
    """Sends a part now and then until the server closes or answers; how long it was let."""
    begun = time.monotonic()
    opened.settimeout(0.2)
    while time.monotonic() - begun < seconds:
        try:
            opened.sendall(part)
            # A peek that is not over time: an answer, or the end.
            opened.recv(1, socket.MSG_PEEK)
            break
        except TimeoutError:
            continue
        except ConnectionError:
            break
    opened.settimeout(30)
    return time.monotonic() - begun


@pytest.mark.parametrize("port", ["http", "metrics"])
def test_a_head_that_comes_line_by_line(impatient: Server, port: str) -> None:
    with connection(impatient, port) as opened:
        opened.sendall(b"GET /v2 HTTP/1.1\r\nHost: x\r\n")
        # Sooner than a connection with nothing on it.
        assert trickle(opened, b"X-More: x\r\n") < 2.8
        with contextlib.suppress(ConnectionError):
            assert opened.recv(1) == b""


def test_a_slow_head_after_a_good_request(impatient: Server) -> None:
    with connection(impatient) as opened:
        opened.sendall(head(impatient, len(BODY)) + BODY)
        assert answer(opened)[0] == 200
        opened.sendall(b"GET /v2 HTTP/1.1\r\n")
        assert trickle(opened, b"X-More: x\r\n") < 2.8
        with contextlib.suppress(ConnectionError):
            assert opened.recv(1) == b""


def test_a_body_that_comes_byte_by_byte(impatient: Server) -> None:
    with connection(impatient) as opened:
        opened.sendall(head(impatient, 10_000))
        trickle(opened, b" ")
        status, headers, body = answer(opened)
    assert (status, headers["connection"]) == (408, "close")
    assert body["error"] == "the body did not come within 1 seconds"


def test_nothing_at_all(impatient: Server) -> None:
    with connection(impatient) as opened:
        assert opened.recv(1) == b""


def test_a_connection_rests_longer_than_a_head_may_take(impatient: Server) -> None:
    with connection(impatient) as opened:
        for pause in (1.5, 0):
            opened.sendall(head(impatient, len(BODY)) + BODY)
            assert answer(opened)[0] == 200
            time.sleep(pause)
        assert opened.recv(1) == b""  # and then its rest is over


def test_all_bodies_together_have_a_bound(small: Server) -> None:
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connection(small)) for _ in range(2)]
        for opened in slow:
            opened.sendall(head(small, 72_000) + b" " * 70_000)
        wait_for_full(small)
        # What says its size is refused before it is sent, what does not when it goes too far.
        with connection(small) as opened:
            opened.sendall(head(small, 20_000))
            status, headers, body = answer(opened)
        assert (status, headers["retry-after"], headers["connection"]) == (429, "1", "close")
        assert re.fullmatch(r"requests hold 140\d\d\d bytes already; try again later", body["error"])  # and their heads
        with connection(small) as opened:
            opened.sendall(head(small, None) + b"4e20\r\n" + b" " * 20_000)
            assert answer(opened)[0] == 429
        # There is room for small ones all the while.
        assert httpx.post(small.url + small.infer_path, content=BODY, timeout=30).status_code == 200
        # Who was first can finish.
        slow[0].sendall(BODY.rjust(2_000))
        assert answer(slow[0])[0] == 200
    # And who gives up leaves his place.
    deadline = time.monotonic() + 20
    while httpx.post(small.url + small.infer_path, content=BODY.ljust(99_000), timeout=30).status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_for_full(server: Server) -> None:
    """Until the server holds what the slow ones have sent: then 20,000 bytes more are too many."""
    deadline = time.monotonic() + 20
    while httpx.post(server.url + server.infer_path, content=BODY.ljust(20_000), timeout=30).status_code != 429:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_one_body_has_a_bound_with_and_without_its_size(small: Server) -> None:
    with connection(small) as opened:
        opened.sendall(head(small, 100_001))
        assert answer(opened)[0] == 413
    with connection(small) as opened:
        opened.sendall(head(small, None) + b"186a1\r\n" + b" " * 100_001)
        assert answer(opened)[0] == 413
