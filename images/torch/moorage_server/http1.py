"""HTTP/1.1 on one connection: whole requests go to an application, its answers go out in their order.

httptools parses. Everything that a client could make last or grow has a bound here: the time and size of a head, of a
body, of all requests together, of silence, and of an answer that nobody reads. `door` bounds the number of connections.
Knows nothing of models.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING

import httptools

from . import http2
from .messages import CLIENT_GONE, EACH_HEADER, FOREVER, HEAD_BYTES, LINGER_SECONDS, Request, Response, error
from .unpack import Unreadable, unpacked

if TYPE_CHECKING:
    from .door import Door

# Of requests that came before the answer to the first: no more is read until there is room.
_PIPELINED = 16
# A refused body up to this size is read and thrown away, so that its connection stays of use.
_SWALLOWED = 64 * 1024

_STATUS = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\nServer: moorage\r\n".encode() for status in HTTPStatus
}


_ONCE = {b"host", b"transfer-encoding"}
_UPGRADE = {b"upgrade", b"http2-settings", b"connection"}


def _without_upgrade(request: Request) -> bytes:
    """Its head, as a client would have sent it that wishes for nothing else."""
    kept = [name + b": " + value for name, value in request.headers.items() if name not in _UPGRADE]
    return b"\r\n".join((request.method + b" " + request.target + b" HTTP/1.1", *kept, b"", b""))


def _head_too_large() -> Response:
    return error(431, f"the head is larger than {HEAD_BYTES} bytes")


class _Refused(Exception):
    """Raised in the parser's callbacks: the connection is of no more use than for this answer."""

    def __init__(self, response: Response) -> None:
        self.response = response


_IDLE, _HEAD, _BODY = range(3)


class Connection(asyncio.Protocol):
    """A client. One of its requests at a time is with the application, the others wait their turn.

    A client that closes, or says that it will send no more, waits for no answer: so read it nginx and Go's server, too.
    """

    def __init__(self, door: "Door", loop: asyncio.AbstractEventLoop) -> None:
        self._door, self._limits, self._app, self._now = door, door.limits, door.application, loop.time
        self._loop = loop
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._reading, self._stage, self._parts = _IDLE, 0, 0
        self._head_bytes = self._unparsed = 0
        self._request: Request | None = None  # that is being read
        self._body: bytes | bytearray = b""
        self._again = b""  # a head to be read once more, without its wish for another protocol
        self._waiting: deque[Request] = deque()
        self._current: Request | None = None  # that is with the application
        self._paused = self._blocked = False
        self._deaf = self._hung_up = self._pumping = False
        self.crowded = False
        self.deadline, self.heard = FOREVER, 0.0
        """By the loop's clock: when it is closed, or told that it was too slow; when it began to rest."""

    # From the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.crowded = not self._door.enter(self)
        if self._door.surplus > self._limits.connections:
            self.abort()
        self._rest()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        # Sent in one piece by every client there is; and no method of HTTP/1.1 begins so.
        if data.startswith(b"PRI * ") and not self._stage and (calls := self._door.calls) is not None:
            other = http2.Connection(self._door, calls, self._loop, crowded=self.crowded)
            self._door.replace(self, other)
            self._parser = None  # it knows this connection
            other.take_over(self._transport, data)
            return
        stage, parts = self._stage, self._parts
        try:
            self._feed(data)
        except httptools.HttpParserCallbackError as failed:
            if not isinstance(failed.__context__, _Refused):
                raise
            self._close_with(failed.__context__.response)
        except httptools.HttpParserError as failed:
            self._close_with(error(400, f"this is no HTTP/1.1: {failed}"))
        if self._reading != _IDLE and (self._stage, self._parts) == (stage, parts) and not self._deaf:
            # The parser keeps a header to itself until it has all of it, and so what frames chunks.
            self._unparsed += len(data)
            if self._unparsed > 2 * HEAD_BYTES:
                self._close_with(_head_too_large())
        if self._reading != _IDLE and self._stage != stage and self._current is None:
            self._rest()

    def _feed(self, data: bytes) -> None:
        assert self._parser is not None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if not self._again:  # CONNECT: it has been refused, and what follows is no HTTP
                self._deaf = True
                return
            # A server may decline, but the parser has left the body out.
            head, self._again = self._again, b""
            self._parser = httptools.HttpRequestParser(self)
            self._feed(head + data[upgrade.args[0] :])

    def eof_received(self) -> None:
        """It closes by itself, once what was written is sent: for that it has as long as for a body."""
        self.deadline = self._now() + self._limits.body_seconds

    def connection_lost(self, exc: BaseException | None) -> None:
        self._door.leave(self)
        self._deaf = self._hung_up = True
        gone = [one for one in (self._current, *self._waiting, self._request) if one is not None]
        self._current = self._request = None
        self._waiting.clear()
        # The parser knows this connection: not to be found by the garbage collector, some time later.
        self._body, self._parser = b"", None
        for request in gone:
            self._gone(request)

    def pause_writing(self) -> None:
        """It does not read its answers: nothing more is done for it until it does."""
        self._blocked = True
        self.deadline = self._now() + self._limits.body_seconds
        self._pause()

    def resume_writing(self) -> None:
        self._blocked = False
        if not self._hung_up:
            self.deadline = FOREVER
            if self._current is not None and self._current.on_room is not None:
                if self._paused and len(self._waiting) < _PIPELINED:
                    self._paused = False
                    self._transport.resume_reading()  # else nobody would see it leave
                self._current.on_room()
            self._pump()

    # From the parser.

    def on_message_begin(self) -> None:
        self._reading, self._request, self._body = _HEAD, Request(self), b""
        self._head_bytes = self._unparsed = 0
        self._stage += 1

    def on_url(self, url: bytes) -> None:
        self._read.target += url
        self._grow_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._grow_head(len(name) + len(value) + EACH_HEADER)
        if self._reading == _BODY:
            return  # a trailer, which must not pass for what a gateway has looked at
        headers, name = self._read.headers, name.lower()
        if name in _ONCE and name in headers:
            raise _Refused(error(400, f"{name.decode()} must come once"))
        headers[name] = value

    def _grow_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > HEAD_BYTES:
            raise _Refused(_head_too_large())

    def on_headers_complete(self) -> None:
        request, parser = self._read, self._parser
        assert parser is not None
        self._reading = _BODY
        self._stage += 1
        request.method = parser.get_method()
        if parser.should_upgrade() and request.method != b"CONNECT":
            self._again = _without_upgrade(request)
            return
        request.began, request.crowded = time.perf_counter(), self.crowded
        request.keep_alive = parser.should_keep_alive() and not parser.should_upgrade()
        version = parser.get_http_version()
        request.old = version == "1.0"
        self._hold(request, self._head_bytes)
        self._check_head(request, version)
        length = int(request.headers.get(b"content-length", 0))
        request.refusal = self._guarded(self._app.head, request) or self._too_much(length, length)
        expected = None if request.old else request.headers.get(b"expect")
        if request.refusal is not None and (expected or request.refusal.close or length > _SWALLOWED):
            raise _Refused(request.refusal)
        if expected is None:
            return
        if expected.lower() != b"100-continue":
            raise _Refused(error(417, "of Expect only 100-continue is known"))
        if self._current is None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _check_head(self, request: Request, version: str) -> None:
        headers = request.headers
        if version not in ("1.0", "1.1"):
            raise _Refused(error(505, "this server speaks HTTP/1.1"))
        if b"host" not in headers and not request.old:
            raise _Refused(error(400, "a request of HTTP/1.1 must have a Host header"))
        coding = headers.get(b"transfer-encoding")
        if coding is not None and (request.old or coding.lower() != b"chunked"):
            raise _Refused(error(400 if request.old else 501, "of Transfer-Encoding HTTP/1.1's chunked is known"))
        if not request.target.startswith(b"/") and b"://" in request.target:
            # As it is sent to a proxy: the path begins behind the host.
            request.target = b"/" + request.target.partition(b"://")[2].partition(b"/")[2]

    def on_body(self, body: bytes) -> None:
        request = self._read
        request.size += len(body)
        self._parts += 1
        if request.method != b"POST":
            return  # nothing else asks for one: it must not take room from those who need it
        refusal = request.refusal or self._too_much(request.size, len(body))
        if refusal is None:
            if not self._body:
                self._body = body
            elif isinstance(self._body, bytearray):
                self._body += body
            else:
                self._body = bytearray(self._body) + body
            self._hold(request, len(body))
        elif refusal.close or request.size > _SWALLOWED:
            raise _Refused(refusal)

    def on_message_complete(self) -> None:
        request = self._read
        self._request, self._reading = None, _IDLE
        if self._again:
            return
        request.body, self._body = self._body, b""
        if request.refusal is None and (encoding := request.headers.get(b"content-encoding")):
            request.refusal = self._unpack(request, encoding.lower())
        self._waiting.append(request)
        if len(self._waiting) >= _PIPELINED or self._door.held > self._limits.all_requests_bytes:
            self._pause()
        self._pump()

    @property
    def _read(self) -> Request:
        if self._request is None:
            raise _Refused(error(400, "this request was refused before its end"))
        return self._request

    def _too_much(self, one: int, more: int) -> Response | None:
        limits, held = self._limits, self._door.held
        if one > limits.body_bytes:
            return error(413, f"the body is larger than {limits.body_bytes} bytes", close=True)
        # A probe has no body. Its own head is not counted, so that the largest body fits where there may be one.
        if more and held - self._head_bytes + more > limits.all_requests_bytes:
            message = f"requests hold {held} bytes already; try again later"
            return error(429, message, "Retry-After: 1\r\n", close=True)
        return None

    def _unpack(self, request: Request, coding: bytes) -> Response | None:
        came = len(request.body)
        try:
            request.body = unpacked(bytes(request.body), coding, self._limits.body_bytes)
        except Unreadable as refused:
            return error(400 if refused.known else 415, f"the body {refused}")
        self._hold(request, len(request.body) - came)
        return self._too_much(len(request.body), 0)

    # To and from the application.

    def _pump(self) -> None:
        """Gives it one request after the other, as long as it answers them at once."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while self._current is None and self._waiting and not self._blocked and not self._hung_up:
                request = self._current = self._waiting.popleft()
                self.deadline = FOREVER
                response = request.refusal or self._guarded(self._app.call, request)
                if response is not None:
                    self._send(request, response)
        finally:
            self._pumping = False
        if self._current is None:
            self._rest()

    def _guarded(self, call: Callable[[Request], Response | None], request: Request) -> Response | None:
        try:
            return call(request)
        except Exception as failed:
            self._door.broke(failed)
            return error(500, "the server failed on this request; its log says why")

    def answer(self, request: Request, response: Response) -> None:
        if request is self._current:
            self._send(request, response)
            self._pump()

    def begin(self, request: Request, content_type: str, headers: str) -> None:
        if request is not self._current:
            return
        keep = request.keep_alive = not request.old and self._keeps(request)
        self._drop(request)
        framing = "" if request.old else "Transfer-Encoding: chunked\r\n"
        connection = "" if keep else "Connection: close\r\n"
        head = f"{headers}{connection}Content-Type: {content_type}\r\n{framing}\r\n".encode()
        self._transport.write(b"".join((_STATUS[200], self._door.date, head)))

    def write(self, request: Request, data: bytes) -> bool:
        if request is not self._current:
            return True
        self._transport.write(data if request.old else b"%x\r\n%b\r\n" % (len(data), data))
        return not self._blocked

    def end(self, request: Request, status: int, error: str) -> None:
        if request is not self._current:
            return
        self._current = None
        if not request.old:
            self._transport.write(b"0\r\n\r\n")
        self._finish(request, status, error)
        if not request.keep_alive:
            self._hang_up()
        self._pump()

    def _keeps(self, request: Request) -> bool:
        # Who sent more before it was told is answered that, too.
        last = self._door.last_answers and not self._waiting
        return request.keep_alive and not (last or self.crowded)

    def _drop(self, request: Request) -> None:
        """Of what it asked nobody has need any more."""
        self._door.held -= request.held
        request.held, request.body = 0, b""

    def _send(self, request: Request, response: Response) -> None:
        self._current = None
        self._drop(request)
        keep = self._keeps(request) and not response.close
        body = response.body
        connection = "" if keep and not request.old else f"Connection: {'keep-alive' if keep else 'close'}\r\n"
        head = (
            f"{response.headers}{connection}Content-Type: {response.content_type}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode()
        if request.method == b"HEAD":
            body = b""
        if len(body) < 65536:
            self._transport.write(b"".join((_STATUS[response.status], self._door.date, head, body)))
        else:
            self._transport.writelines((_STATUS[response.status], self._door.date, head, body))
        self._finish(request, response.status, response.error)
        if not keep:
            self._hang_up()

    def _rest(self) -> None:
        """Nothing of it is with the application: so long may it take for what comes next."""
        if self._hung_up or self._blocked:
            return
        if self._door.closed and self._reading == _IDLE:
            self._close()
            return
        limits = self._limits
        idle = limits.head_seconds if self.crowded else limits.idle_seconds
        seconds = (idle, limits.head_seconds, limits.body_seconds)[self._reading]
        self.heard = self._now()
        self.deadline = self.heard + seconds
        if self._paused:
            self._paused = False
            self._transport.resume_reading()

    def _hold(self, request: Request, change: int) -> None:
        request.held += change
        self._door.held += change

    def _finish(self, request: Request, status: int, said: str) -> None:
        if not request.finished:
            request.finished = True
            try:
                self._app.done(request, status, said)
            except Exception as failed:
                self._door.broke(failed)

    def _gone(self, request: Request) -> None:
        self._hold(request, -request.held)
        request.body = b""
        if request.began:
            self._finish(request, CLIENT_GONE, "")

    # Ends.

    def _close_with(self, response: Response) -> None:
        """Nothing more is read; this answer is the last."""
        request, self._request, self._body = self._request or Request(self), None, b""
        self._deaf = response.close = True
        request.refusal = response
        self._hold(request, -request.held)
        self._waiting.append(request)
        self._pump()

    def _hang_up(self) -> None:
        """Closes it; where its client is still sending not at once: a reset would take the answer away."""
        self._hung_up = True
        if (self._reading == _IDLE and not self._deaf) or not self._transport.can_write_eof():
            self._close()
            return
        self._deaf = True
        unsent = self._transport.get_write_buffer_size()
        self.deadline = self._now() + (self._limits.body_seconds if unsent else LINGER_SECONDS)
        if self._paused:
            self._transport.resume_reading()
        self._transport.write_eof()

    def expired(self) -> None:
        transport = self._transport
        if self._blocked or self._hung_up or transport.is_closing() or transport.get_write_buffer_size():
            transport.abort()
        elif self._reading == _BODY:
            self._close_with(error(408, f"the body did not come within {self._limits.body_seconds:g} seconds"))
        else:
            self._close()

    @property
    def idle(self) -> bool:
        """Nothing is on its way to it nor from it."""
        return self._has_nothing and not self._hung_up and not self._transport.get_write_buffer_size()

    @property
    def begun(self) -> bool:
        """It has sent a part of its first head, and nothing since."""
        return self._reading == _HEAD and self._current is None and not self._waiting and not self._hung_up

    @property
    def _has_nothing(self) -> bool:
        return self._current is None and not self._waiting and self._reading == _IDLE

    def close_if_idle(self) -> None:
        if self._has_nothing:
            self._close()

    def _close(self) -> None:
        """What was written is still sent, within its time."""
        self.deadline = self._now() + self._limits.body_seconds
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            self._transport.pause_reading()
