"""A proxy before the API server, whose requests fail the ways API servers, balancers and networks do.

Plain HTTP towards the operator, TLS towards the API server; who asks is said by the token, which passes through. Each
request is noted, so that a test can count them. It runs in a thread with an event loop of its own: a test sets its
faults and reads its notes from outside.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from aiohttp import web
from yarl import URL

HOP_BY_HOP = {"connection", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "content-length"}
LONGER_THAN_ANYBODY_WAITS = 60.0
TROUBLE = ("conflict", "throttled", "error", "timeout", "reset")


Which = Callable[[str, str], bool]
"""Of a request's verb and path."""


@dataclass(frozen=True, slots=True)
class Faults:
    share: float = 0
    """Of all requests: so many fail, before or after the API server saw them."""
    ways: tuple[str, ...] = TROUBLE
    """In which they fail, at random."""
    watch_seconds: float | None = None
    """A watch is cut after so long."""
    expired: float = 0
    """Of the watches that go on from a version: so many hear that it is too old (410)."""
    only: Which = lambda verb, path: True
    """All others are spared."""


@dataclass(frozen=True, slots=True)
class Asked:
    at: float
    verb: str
    path: str
    fault: str

    @property
    def writes(self) -> bool:
        return self.verb not in ("GET", "LIST", "WATCH")

    @property
    def of_lease(self) -> bool:
        return "/leases" in self.path


class FaultProxy:
    def __init__(self, kubeconfig: Path, *, seed: int = 0) -> None:
        self._config = yaml.safe_load(kubeconfig.read_text())
        cluster = self._config["clusters"][0]["cluster"]
        self._target = URL(cluster["server"])
        self._trust = ssl.create_default_context(
            cadata=base64.b64decode(cluster["certificate-authority-data"]).decode()
        )
        self._random = random.Random(seed)
        self.faults = Faults()
        self.asked: list[Asked] = []
        self.port = 0
        self._down = False
        self._holds: Which = lambda verb, path: False
        self._held, self._let_go = threading.Event(), asyncio.Event()
        self._open: set[asyncio.Transport] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        self._call(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def kubeconfig(self, folder: Path) -> Path:
        """The same rights, by way of this proxy."""
        config = {**self._config, "clusters": [{**each, "cluster": self._near()} for each in self._config["clusters"]]}
        path = folder / f"proxy-{self.port}.kubeconfig"
        path.write_text(json.dumps(config))
        return path

    def since(self, moment: float) -> list[Asked]:
        return [each for each in tuple(self.asked) if each.at >= moment]

    def cut(self) -> None:
        """Every connection that is open."""
        self._loop.call_soon_threadsafe(self._abort_all)

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Nobody is there: what is open breaks off, and whoever comes is turned away."""
        self._down = True
        self.cut()
        try:
            yield
        finally:
            self._down = False

    @contextmanager
    def holding(self, which: Which) -> Iterator[threading.Event]:
        """Answers of requests with such a verb and path stay here until the block is left. The event says that one
        does."""
        self._held.clear()
        self._loop.call_soon_threadsafe(self._let_go.clear)
        self._holds = which
        try:
            yield self._held
        finally:
            self._holds = lambda verb, path: False
            self._loop.call_soon_threadsafe(self._let_go.set)

    def _near(self) -> dict[str, str]:
        return {"server": f"http://127.0.0.1:{self.port}"}

    def _call(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    async def _start(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._trust, limit=0),
            timeout=aiohttp.ClientTimeout(total=None, connect=5),
            auto_decompress=False,
        )
        self._runner = web.ServerRunner(web.Server(self._serve, handler_cancellation=True), shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _stop(self) -> None:
        self._abort_all()
        await self._runner.cleanup()
        await self._session.close()

    def _abort_all(self) -> None:
        for transport in tuple(self._open):
            transport.abort()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        transport = request.transport
        if transport is None or self._down:
            return _broken(request)
        self._open.add(transport)
        try:
            return await self._answer(request)
        except aiohttp.ClientError:
            return _broken(request)
        finally:
            self._open.discard(transport)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        verb, fault = _verb(request), self._choose(request)
        self.asked.append(Asked(time.monotonic(), verb, request.path, fault))
        late = self._random.random() < 0.5
        body = await request.read()
        match fault:
            case "conflict":
                return _status(409, "Conflict", "the object has been modified; please apply your changes again")
            case "throttled":
                return _status(429, "TooManyRequests", "too many requests, try again", {"Retry-After": "1"})
            case "error":
                return _status(500, "InternalError", "etcdserver: leader changed")
            case "expired":
                # Not as the answer's own status: an API server has begun to stream by then.
                return web.json_response({"type": "ERROR", "object": _status_object(410, "Expired", "too old")})
            case "timeout" | "reset":
                # The answer is lost; whether the API server did what was asked, nobody knows.
                if late:
                    async with self._upstream(request, body) as answer:
                        await answer.read() if verb != "WATCH" else None
                if fault == "timeout":
                    await asyncio.sleep(LONGER_THAN_ANYBODY_WAITS)
                return _broken(request)
        async with self._upstream(request, body) as answer:
            headers = {name: value for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP}
            if verb == "WATCH" and answer.status == 200:
                return await self._stream(request, answer, headers)
            content = await answer.read()
            if self._holds(verb, request.path):
                self._held.set()
                await self._let_go.wait()
            return web.Response(status=answer.status, headers=headers, body=content)

    @asynccontextmanager
    async def _upstream(self, request: web.BaseRequest, body: bytes) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        url = self._target.join(URL(request.raw_path, encoded=True))
        async with self._session.request(request.method, url, headers=headers, data=body or None) as answer:
            yield answer

    async def _stream(
        self, request: web.BaseRequest, answer: aiohttp.ClientResponse, headers: dict[str, str]
    ) -> web.StreamResponse:
        stream = web.StreamResponse(status=answer.status, headers=headers)
        await stream.prepare(request)
        try:
            spared = not self.faults.only("WATCH", request.path)
            async with asyncio.timeout(None if spared else self.faults.watch_seconds):
                async for chunk in answer.content.iter_any():
                    await stream.write(chunk)
        except TimeoutError:
            if self._random.random() < 0.5:
                return _broken(request)
        await stream.write_eof()
        return stream

    def _choose(self, request: web.BaseRequest) -> str:
        verb, faults = _verb(request), self.faults
        if not faults.only(verb, request.path):
            return ""
        if self._random.random() < faults.share:
            # No reader hears of a conflict.
            return self._random.choice([way for way in faults.ways if way != "conflict" or request.method != "GET"])
        resumes = verb == "WATCH" and request.query.get("resourceVersion", "0") != "0"
        return "expired" if resumes and self._random.random() < faults.expired else ""


def _verb(request: web.BaseRequest) -> str:
    if request.method != "GET":
        return request.method
    if request.query.get("watch") in ("1", "true", "True"):
        return "WATCH"
    return "LIST" if "limit" in request.query else "GET"


def _broken(request: web.BaseRequest) -> web.Response:
    if request.transport is not None:
        request.transport.abort()  # type: ignore[attr-defined]
    return web.Response(status=502)  # nobody is there to read it


def _status(code: int, reason: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response(_status_object(code, reason, message), status=code, headers=headers)


def _status_object(code: int, reason: str, message: str) -> dict[str, Any]:
    return {
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
        "message": f"{message} (made up by the fault proxy)",
    }  # fmt: skip
