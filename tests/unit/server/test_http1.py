"""HTTP/1.1 over real sockets before an application that echoes: order, limits, ends, and garbage."""

import asyncio
import contextlib
import gzip
import random
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moorage_server.door import Door
from moorage_server.messages import CLIENT_GONE, Limits, Request, Response

LIMITS = Limits(body_bytes=100_000, all_requests_bytes=150_000, head_seconds=0.5, body_seconds=0.5, idle_seconds=1)


class Echo:
    """Answers a request's method, path and body. /later waits for `release`, /early is refused by its head, /big is
    large."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.over: list[tuple[str, int]] = []
        self.held: list[Request] = []

    def head(self, request: Request) -> Response | None:
        return Response(403, b"no", error="no") if request.path == "/early" else None

    def call(self, request: Request) -> Response | None:
        self.calls.append(request.path)
        if request.path == "/later":
            self.held.append(request)
            return None
        if request.path == "/big":
            return Response(200, b"x" * 3_000_000)
        return self.echo(request)

    def echo(self, request: Request) -> Response:
        crowded = b"crowded " if request.crowded else b""
        body = crowded + request.method + b" " + request.path.encode() + b" " + request.body
        return Response(200, body, content_type="text/plain")

    def release(self) -> None:
        for request in self.held:
            request.answer(self.echo(request))

    def done(self, request: Request, status: int, error: str) -> None:
        self.over.append((request.path, status))


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, *, body: bool = True) -> tuple[int, dict[str, str], bytes]:
        async with asyncio.timeout(20):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            status = int(head.split()[1])
            headers = {k.lower(): v for k, v in re.findall(r"^([^:\r\n]+): (.*)\r$", head, re.MULTILINE)}
            return status, headers, await self.reader.readexactly(int(headers.get("content-length", 0)) if body else 0)

    async def closed(self) -> bool:
        return await self.rest() == b""

    async def rest(self) -> bytes:
        """What comes until it is closed."""
        async with asyncio.timeout(20):
            with contextlib.suppress(ConnectionError):
                return await self.reader.read()
            return b""


class World:
    def __init__(self, door: Door, echo: Echo, port: int) -> None:
        self.door, self.echo, self.port = door, echo, port

    async def client(self) -> Client:
        return Client(*await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 23))


@asynccontextmanager
async def opened(limits: Limits = LIMITS) -> AsyncIterator[World]:
    echo = Echo()
    door = Door(echo, limits)
    server = await door.open(0)
    try:
        yield World(door, echo, min(server.sockets, key=lambda s: s.family).getsockname()[1])
    finally:
        await door.end(0.1)


async def until(probe: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not probe():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def get(path: str = "/", *headers: str) -> bytes:
    return "\r\n".join((f"GET {path} HTTP/1.1", "Host: x", *headers, "", "")).encode()


def post(body: bytes, *headers: str, path: str = "/p") -> bytes:
    return (
        "\r\n".join((f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers, "", "")).encode()
        + body
    )


async def waiting(world: World) -> Client:
    """A client whose request is not answered until `release`."""
    client = await world.client()
    await client.send(get("/later"))
    await until(lambda: bool(world.echo.held))
    return client


async def test_requests_on_one_connection() -> None:
    async with opened() as world:
        client = await world.client()
        for number in range(3):
            await client.send(post(b"%d" % number))
            status, headers, body = await client.answer()
            assert (status, body) == (200, b"POST /p %d" % number)
            assert (headers["server"], headers["content-type"]) == ("moorage", "text/plain")
            assert headers["date"].endswith(" GMT") and "connection" not in headers
        assert len(world.door.connections) == 1 and world.door.held == 0


async def test_a_request_in_every_cut() -> None:
    data = post(b"hello", "X-Long: " + "y" * 20)
    async with opened() as world:
        client = await world.client()
        for cut in range(1, len(data)):
            await client.send(data[:cut])
            await asyncio.sleep(0)
            await client.send(data[cut:])
            assert (await client.answer())[2] == b"POST /p hello"


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with opened() as world:
        client = await world.client()
        await client.send(get("/later") + b"".join(get(f"/{i}") for i in range(40)))
        await until(lambda: bool(world.echo.held))
        assert world.echo.calls == ["/later"], "one at a time"
        world.echo.release()
        assert [(await client.answer())[2].split()[1] for _ in range(41)] == [
            b"/later", *(b"/%d" % i for i in range(40))
        ]  # fmt: skip


async def test_chunks() -> None:
    async with opened() as world:
        client = await world.client()
        await client.send(
            b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: t\r\n\r\n"
        )
        assert (await client.answer())[2] == b"POST /c abcde"


async def test_continue() -> None:
    async with opened() as world:
        client = await world.client()
        await client.send(b"POST /c HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert (await client.answer())[0] == 100
        await client.send(b"ab")
        assert (await client.answer())[2] == b"POST /c ab"
        await client.send(b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        status, headers, _ = await client.answer()
        assert (status, headers["connection"]) == (403, "close")
        await client.writer.drain()
        client.writer.write_eof()
        assert await client.closed()
    async with opened() as world:
        client = await world.client()
        await client.send(get("/", "Expect: miracles"))
        assert (await client.answer())[0] == 417


async def test_a_head_and_old_clients() -> None:
    async with opened() as world:
        client = await world.client()
        await client.send(get("/h").replace(b"GET", b"HEAD") + get("/g"))
        status, headers, _ = await client.answer(body=False)
        assert (status, headers["content-length"]) == (200, str(len("HEAD /h ")))
        assert (await client.answer())[2] == b"GET /g "
        old = await world.client()
        await old.send(b"GET /o HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert (await old.answer())[1]["connection"] == "keep-alive"
        await old.send(b"GET /o HTTP/1.0\r\n\r\n")
        assert (await old.answer())[1]["connection"] == "close"
        assert await old.closed()


@pytest.mark.parametrize("cut", [0, 30, 90])
async def test_a_wish_for_another_protocol_is_not_heard(cut: int) -> None:
    """As Java's client asks: with a body, which must not be lost."""
    wish = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQBAAAAAAIAAAAA")
    async with opened() as world:
        client = await world.client()
        data = get("/u", *wish) + post(b"hello", *wish) + get("/more")
        await client.send(data[:cut])
        await asyncio.sleep(0.02)
        await client.send(data[cut:])
        assert [(await client.answer())[2] for _ in range(3)] == [b"GET /u ", b"POST /p hello", b"GET /more "]


async def test_a_tunnel_is_refused() -> None:
    async with opened() as world:
        client = await world.client()
        await client.send(b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\n\x16\x03\x01")
        assert (await client.answer())[1]["connection"] == "close"


async def test_paths_as_a_proxy_would_get_them() -> None:
    async with opened() as world:
        client = await world.client()
        for target, path in (("http://x/a/b?c=d", "/a/b"), ("/%61?x", "/a"), ("/a%2fb", "/a%2fb"), ("http://x", "/")):
            await client.send(get(target))
            assert (await client.answer())[2] == f"GET {path} ".encode()


async def test_a_trailer_is_no_header() -> None:
    async with opened() as world:
        client = await world.client()
        head = b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        await client.send(head + b"2\r\nab\r\n0\r\nHost: evil\r\nContent-Encoding: gzip\r\n\r\n")
        assert (await client.answer())[2] == b"POST /c ab"


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip"])
async def test_all_members_of_a_packed_body_count(encoding: str) -> None:
    async with opened() as world:
        client = await world.client()
        await client.send(post(gzip.compress(b"hel") + gzip.compress(b"lo"), f"Content-Encoding: {encoding}"))
        assert (await client.answer())[2] == b"POST /p hello"
        await client.send(post(gzip.compress(b"hel") + b"junk", f"Content-Encoding: {encoding}"))
        assert (await client.answer())[0] == 400
        await client.send(post(gzip.compress(b"x" * 60_000) * 2, f"Content-Encoding: {encoding}"))
        assert (await client.answer())[0] == 413


async def test_a_fault_of_the_application_is_an_answer_and_nobody_elses_trouble() -> None:
    problems: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, told: problems.append(told))
    async with opened() as world:
        world.echo.call = world.echo.done = lambda *_: 1 / 0  # type: ignore[method-assign,assignment]
        client = await world.client()
        for _ in range(2):
            await client.send(get())
            assert (await client.answer())[0] == 500
    assert len(problems) == 4


async def test_close_is_heard() -> None:
    async with opened() as world:
        client = await world.client()
        await client.send(get("/", "Connection: close") + get("/more"))
        assert (await client.answer())[1]["connection"] == "close"
        assert await client.closed()
        assert world.echo.calls == ["/"]


async def test_one_connection_more_than_may_be() -> None:
    async with opened(replace(LIMITS, connections=2, idle_seconds=20)) as world:
        silent, busy = await world.client(), await world.client()
        for client in (silent, busy):
            await client.send(get())
            await client.answer()
        await busy.send(get("/later"))
        await until(lambda: bool(world.echo.held))

        third = await world.client()
        assert await silent.closed()  # whoever is silent makes room
        await third.send(get("/later"))
        await until(lambda: len(world.echo.held) == 2)

        fourth = await world.client()
        await fourth.send(get("/who"))
        status, headers, body = await fourth.answer()
        assert (status, headers["connection"], body) == (200, "close", b"crowded GET /who ")
        assert await fourth.closed()

        world.echo.release()
        assert [(await client.answer())[0] for client in (busy, third)] == [200, 200]


async def test_who_takes_long_to_say_what_it_wants_keeps_nobody_out() -> None:
    async with opened(replace(LIMITS, connections=1, head_seconds=20)) as world:
        slow = await world.client()
        await slow.send(b"GET / HTTP/1.1\r\n")
        await until(lambda: any(one.begun for one in world.door.connections))
        other = await world.client()
        assert await slow.closed()
        await other.send(get())
        assert (await other.answer())[2] == b"GET / "


async def test_there_is_room_again_while_the_last_ones_are_still_leaving() -> None:
    async with opened(replace(LIMITS, connections=1)) as world:
        busy = await waiting(world)
        surplus = await world.client()
        await surplus.send(b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n\r\nmore to come")
        assert (await surplus.answer())[0] == 403
        assert len(world.door.connections) == 2
        busy.writer.close()
        await until(lambda: len(world.door.connections) == 1)
        another = await world.client()
        await another.send(get())
        assert (await another.answer())[2] == b"GET / "


async def test_of_those_beyond_the_limit_there_are_not_too_many_either() -> None:
    async with opened(replace(LIMITS, connections=1)) as world:
        _busy = await waiting(world)  # open for as long as it is known
        others = [await world.client() for _ in range(20)]
        await until(lambda: len(world.door.connections) <= 2)
        ended = [await other.closed() for other in others]  # one of them after the time for a head
        assert all(ended)
        assert len(world.door.connections) == 1


async def test_heads_that_wait_are_counted_and_probes_get_in_all_the_same() -> None:
    async with opened(replace(LIMITS, all_requests_bytes=20_000)) as world:
        client, other = await world.client(), await world.client()
        for one in (client, other):
            await one.send(get("/later") + get("/next", "X: " + "y" * 30_000) + get("/last"))
        await until(lambda: world.door.held > 60_000)
        probe = await world.client()
        await probe.send(get("/probe"))
        assert (await probe.answer())[0] == 200
        await probe.send(post(b"body"))
        assert (await probe.answer())[0] == 429
        world.echo.release()
        for one in (client, other):
            assert [(await one.answer())[0] for _ in range(3)] == [200, 200, 200]
        await until(lambda: not world.door.held)


async def test_the_largest_body_fits_where_there_may_be_one() -> None:
    async with opened(replace(LIMITS, body_bytes=50_000, all_requests_bytes=50_000)) as world:
        client = await world.client()
        await client.send(post(b"x" * 50_000, "X: " + "y" * 500))
        assert (await client.answer())[0] == 200


@pytest.mark.parametrize("size", [100, 60_000])
async def test_a_refused_body_of_moderate_size_costs_no_connection(size: int) -> None:
    async with opened() as world:
        client = await world.client()
        await client.send(post(b"x" * size, path="/early") + get("/next"))
        assert (await client.answer())[0] == 403
        assert (await client.answer())[2] == b"GET /next "
        assert world.door.held == 0


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_too_large_is_answered_while_it_comes(chunked: bool) -> None:
    async with opened(replace(LIMITS, body_seconds=5)) as world:
        client = await world.client()
        size = "Transfer-Encoding: chunked" if chunked else "Content-Length: 10000000"
        await client.send(
            f"POST / HTTP/1.1\r\nHost: x\r\n{size}\r\n\r\n".encode() + (b"989680\r\n" if chunked else b"")
        )
        with contextlib.suppress(ConnectionError):
            for _ in range(20):
                await client.send(b"x" * 10_000)
        status, headers, _ = await client.answer()
        assert (status, headers["connection"]) == (413, "close")
        assert world.door.held == 0


MALFORMED = {
    "no method": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "no version": b"GET /\r\n\r\n",
    "another version": b"GET / HTTP/3.7\r\nHost: x\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    "chunks of an old client": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "another coding": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "a newer version": b"GET / HTTP/2.0\r\nHost: x\r\n\r\n",
    "a space in a name": b"GET / HTTP/1.1\r\nHost: x\r\nA b: c\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a length and chunks": (
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "a length that is none": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    "a length beyond all numbers": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
    "a chunk size that is none": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nab\r\n",
    "a zero byte": b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
    "many headers": get("/", *(f"X-{i}: y" for i in range(600))),
    "a long header": get("/", "X: " + "y" * 400_000),
    "a long path": get("/" + "y" * 400_000),
}  # fmt: skip


@pytest.mark.parametrize("case", MALFORMED)
async def test_what_is_no_http_is_told_so_and_closed(case: str) -> None:
    async with opened() as world:
        client, other = await world.client(), await world.client()
        with contextlib.suppress(ConnectionError):
            await client.send(MALFORMED[case])
        status, headers, _ = await client.answer()
        assert (status in (400, 431, 501, 505), headers["connection"]) == (True, "close")
        client.writer.close()
        await other.send(get("/fine"))
        assert (await other.answer())[2] == b"GET /fine "
        await until(lambda: len(world.door.connections) == 1)


ENDLESS = {
    "head": b"GET / HTTP/1.1\r\nHost: x\r\nX: ",
    "trailer": b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ",
}


@pytest.mark.parametrize("part", ENDLESS)
async def test_what_never_ends_is_bounded_in_size(part: str) -> None:
    async with opened(replace(LIMITS, head_seconds=20, body_seconds=20)) as world:
        client = await world.client()
        await client.send(ENDLESS[part])
        with contextlib.suppress(ConnectionError):
            for _ in range(50):
                await client.send(b"y" * 4096)
                await asyncio.sleep(0.001)
        assert (await client.answer())[0] == 431


async def test_a_large_body_counts_for_no_head() -> None:
    async with opened() as world:
        client = await world.client()
        data = post(b"x" * 99_000) + get("/next", "X: " + "y" * 20_000)
        await client.send(data[:110_000])
        await asyncio.sleep(0.05)
        await client.send(data[110_000:])
        assert [(await client.answer())[0] for _ in range(2)] == [200, 200]


async def test_a_client_that_goes_is_known_to_have_gone() -> None:
    async with opened() as world:
        client = await world.client()
        await client.send(post(b"x" * 1000, path="/later") + get("/second"))
        await until(lambda: bool(world.echo.held))
        client.writer.close()
        await until(lambda: len(world.echo.over) == 2)
        assert world.echo.over == [("/later", CLIENT_GONE), ("/second", CLIENT_GONE)]
        world.echo.release()
        assert (world.door.held, len(world.door.connections)) == (0, 0)


async def test_who_does_not_read_is_cut_off_and_holds_up_nobody() -> None:
    async with opened() as world:
        deaf, other = await world.client(), await world.client()
        deaf.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await deaf.send(get("/big") * 30)
        await other.send(get("/fine"))
        assert (await other.answer())[2] == b"GET /fine "
        await until(lambda: len(world.door.connections) == 1)
        assert world.echo.calls.count("/big") < 10, "what nobody reads is not made"


async def test_who_does_not_read_and_sends_on_is_not_listened_to() -> None:
    """Its packets end in the middle of a head."""
    async with opened(replace(LIMITS, body_seconds=2, head_seconds=2)) as world:
        deaf = await world.client()
        deaf.writer.transport.pause_reading()  # type: ignore[attr-defined]
        data = get("/big") * 4000
        sent = 0
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(15):
                while sent < len(data):
                    await deaf.send(data[sent : sent + 1001])
                    sent += 1001
                    await asyncio.sleep(0)
        await until(lambda: not world.door.connections)
        assert len(world.echo.over) < 100


async def test_a_client_that_takes_nothing_does_not_stay() -> None:
    """Its window is shut before the answer: that is small, so nobody waits for the socket to become writable."""
    async with opened(replace(LIMITS, idle_seconds=0.5)) as world:
        for count, more in ((1, ()), (2, ("Connection: close",))):
            opened_socket = socket.socket()
            opened_socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            opened_socket.connect(("127.0.0.1", world.port))
            opened_socket.setblocking(False)
            reader, writer = await asyncio.open_connection(sock=opened_socket)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(post(b"x" * 60_000, *more))
            await until(lambda count=count: len(world.echo.calls) == count)
            await until(lambda: not world.door.connections)
            writer.close()
            del reader


async def test_at_the_end_idle_connections_close_and_busy_ones_are_answered() -> None:
    async with opened(replace(LIMITS, idle_seconds=60)) as world:
        idle, busy, half = [await world.client() for _ in range(3)]
        await idle.send(get())
        await idle.answer()
        await busy.send(get("/later"))
        await half.send(get("/half")[:-2])
        await until(lambda: bool(world.echo.held))
        world.door.close()
        assert await idle.closed()
        world.echo.release()
        await half.send(b"\r\n")
        for client in (busy, half):
            status, headers, _ = await client.answer()
            assert (status, headers["connection"]) == (200, "close")
            assert await client.closed()
        with pytest.raises(ConnectionError):
            await world.client()


TOKENS = [
    *(b"GET ", b"POST ", b"HEAD ", b"PRI * ", b"/", b"/later", b"/early", b"*"),
    *(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b" HTTP/9.9\r\n", b"Host: x\r\n"),
    *(b"Content-Length: 5\r\n", b"Content-Length: 99999999\r\n", b"Content-Length: -1\r\n"),
    *(b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n", b"Content-Encoding: gzip\r\n"),
    *(b"Connection: close\r\n", b"Connection: upgrade\r\nUpgrade: x\r\n"),
    *(b"5\r\nhello\r\n", b"0\r\n\r\n", b"fffffffffffffffff\r\n", b"hello"),
    *(b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"\x00", b"\xff", b":", b" "),
]
LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]
streams = st.lists(st.sampled_from(TOKENS) | st.binary(max_size=8) | st.just(get("/ok")), max_size=25)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(streams, min_size=1, max_size=6), st.integers(0, 2**32), st.sampled_from(LOOPS))
def test_whatever_comes_the_others_are_served_and_nothing_stays(
    connections: list[list[bytes]], seed: int, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """Streams of pieces of HTTP, good and bad, cut anywhere; some are closed half-way."""

    async def run() -> None:
        chance = random.Random(seed)
        problems: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, told: problems.append(told))
        async with opened() as world:

            async def noise(parts: list[bytes]) -> None:
                client = await world.client()
                data = b"".join(parts)
                with contextlib.suppress(ConnectionError):
                    while data:
                        cut = chance.randint(1, len(data))
                        await client.send(data[:cut])
                        data = data[cut:]
                client.writer.close()

            await asyncio.gather(*(noise(parts) for parts in connections))
            good = await world.client()
            await good.send(get("/fine"))
            assert (await good.answer())[2] == b"GET /fine "
            good.writer.close()
            world.echo.release()
            await until(lambda: not world.door.connections)
            assert world.door.held == 0
        assert problems == []

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())
