"""HTTP/2 on one connection, as far as gRPC needs it (RFC 9113): calls come in, messages go to and fro.

hpack reads headers, `outflow` holds back what a client has no room for. As in `http1` everything that a client could
make last or grow has a bound: the time and size of a head, of a message, of all of them together, of silence, of
answers that nobody takes, and the number of calls and of frames that lead to nothing. Knows nothing of models.
"""

import asyncio
import struct
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

from hpack import Decoder
from hpack.exceptions import HPACKError, OversizedHeaderListError

from .frames import (
    ACCEPTS,
    ACK,
    CALL_WINDOW,
    CALLS,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME,
    FRAME_BYTES,
    GO_AWAY,
    HEAD_LIST,
    HEADERS,
    MOST,
    NO_TABLE,
    OK_HEAD,
    OK_TRAILERS,
    PADDED,
    PING,
    PRIORITISED,
    PRIORITY,
    PROMISE,
    PUSH,
    RESET,
    SETTINGS,
    WINDOW,
    Broken,
    Code,
    Head,
    Reset,
    check_dependency,
    frame,
    literal,
    unpadded,
)  # fmt: skip
from .messages import CLIENT_GONE, FOREVER, HEAD_BYTES, LINGER_SECONDS
from .outflow import Outbox, Outflow
from .unpack import Unreadable, unpacked

if TYPE_CHECKING:
    from .door import Door

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

_MAX_CALLS = 1024
_MAX_FRAME = 16 * 1024
# What may be on its way to us of one call, and of all of a connection. What is here and unanswered is counted, too.
_WINDOW_BYTES, _CONNECTION_WINDOW_BYTES = 1 << 20, 1 << 24
# What a client may cost in a second beside its messages, each of which brings some of it along: about frames.
_EFFORT, _EFFORT_OF_MESSAGE, _SAVED = 1000, 8, 16_384
# After this a client is asked to come again on a new connection, so that it finds replicas that are new.
_AGE_SECONDS = 5.0
_SOON = 1.0  # a client that does not answer has heard it by then, too
_LAST = b"moorage."  # the ping after which a client has heard that it is to call elsewhere

# gRPC's codes, as far as the transport gives them: https://grpc.io/docs/guides/status-codes
DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE = 4, 8, 12, 13, 14


class Calls(Protocol):
    """An application."""

    def began(self, call: "Call") -> None:
        """Its head has come."""

    def message(self, call: "Call", message: bytes | bytearray) -> None:
        """One message, whole."""

    def ended(self, call: "Call") -> None:
        """The client sends no more."""

    def gone(self, call: "Call", status: int, said: str) -> None:
        """It has ended before the application ended it: its client has gone (499), or was refused; as HTTP has it."""

    def leaving(self, call: "Call") -> None:
        """The server wants to go; a call that asks for nothing should be finished."""


class Call:
    """A stream. Messages go out in order; `state` is the application's own."""

    __slots__ = (
        "_connection", "_debts", "began", "buffer", "deaf", "ended_in", "finished", "head", "held", "id", "most",
        "on_room", "out", "packed", "patient", "received", "refund", "room", "started", "state", "trailers",
    )  # fmt: skip

    def __init__(self, connection: "Connection", id: int, head: Head, window: int, most: int) -> None:
        self._connection, self.id, self.head, self.out = connection, id, head, Outbox(id, window)
        self.began = time.perf_counter()
        self.patient = self.deaf = False
        """Its client may take its time between messages; what comes is thrown away."""
        self.most = most
        """Bytes of a message."""
        self.state: Any = None
        self.buffer = bytearray()
        self.packed = head.headers.get(b"grpc-encoding", b"identity")
        self.room, self.refund, self.received = _WINDOW_BYTES, 0, 0
        self.held = 0  # bytes that came and are not answered
        self._debts: deque[int] = deque()
        self.trailers = b""
        self.on_room: Callable[[], None] | None = None
        """Called when its client has taken what waited for it."""
        self.ended_in = self.started = self.finished = False

    @property
    def crowded(self) -> bool:
        return self._connection.crowded

    @property
    def behind(self) -> bool:
        """Its client has not taken all that was sent."""
        return bool(self.out.parts) or self._connection.blocked

    def send(self, message: bytes, *, last: bool = True) -> None:
        """`last`: of the answers to a message."""
        if not self.finished:
            self._connection.send(self, message, last=last)

    def settle(self) -> None:
        """A message that had no last answer of its own is done with."""
        if not self.finished:
            self._connection.settle(self)

    def finish(self, code: int = 0, message: str = "") -> None:
        """Code and words as of gRPC; the first time counts."""
        if not self.finished:
            self._connection.finish(self, code, message)

    def plainly(self, status: int, text: str) -> None:
        """Answers as HTTP does without gRPC."""
        if not self.finished:
            self._connection.answer_plainly(self, status, text)

    def owe(self, size: int) -> None:
        """So many bytes of a message have been given to the application."""
        self._debts.append(size)

    def paid(self) -> int:
        """The bytes of the message that is now answered."""
        return self._debts.popleft() if self._debts else 0


class Connection(asyncio.Protocol):
    """A client. The HTTP/1.1 of its port has seen by its first bytes that it speaks HTTP/2, and hands it over."""

    def __init__(self, door: "Door", application: Calls, loop: asyncio.AbstractEventLoop, *, crowded: bool) -> None:
        self._door, self._limits, self._app, self._loop = door, door.limits, application, loop
        self.crowded = crowded
        self._calls: dict[int, Call] = {}
        self._late: dict[int, float] = {}  # calls that wait for a message or its end, and since when
        self._reset: deque[int] = deque(maxlen=64)  # frames of these may still be on their way
        self._last = 0  # the highest stream that the client has begun
        self._buffer = b""
        self._preface, self._settled = False, False
        self._block: tuple[int, int, bytearray, float] | None = None  # a head of which more is to come
        self._decoder = Decoder(max_header_list_size=HEAD_BYTES)
        self._heads: dict[bytes, Head] = {}  # by the blocks that bring them, while the table stays as it is
        self._outflow = Outflow(door, loop.time)
        self._room, self._effort, self._effort_since = _CONNECTION_WINDOW_BYTES, 0, 0.0
        self._first_block = NO_TABLE
        self._out: list[bytes] = []
        self._flushing = self._blocked = self._gone = False
        self._pinged: float | None = None
        self._going = self._leaving = False  # asked to call elsewhere; told which call was the last
        self._born = self.heard = loop.time()
        self._retires = self._born + (0 if door.last_answers else _AGE_SECONDS)
        self.deadline = self._born

    def take_over(self, transport: asyncio.Transport, data: bytes) -> None:
        self._transport = transport
        transport.set_protocol(self)
        own = struct.pack(
            ">HIHIHI",
            *(CALLS, _MAX_CALLS),
            *(CALL_WINDOW, _WINDOW_BYTES),
            *(HEAD_LIST, HEAD_BYTES),
        )
        wider = _CONNECTION_WINDOW_BYTES - 65535
        self._write(frame(SETTINGS, 0, 0, own), frame(WINDOW, 0, 0, wider.to_bytes(4, "big")))
        self.data_received(data)

    # From the transport.

    def data_received(self, data: bytes) -> None:
        if self._gone:
            return
        try:
            self._feed(self._buffer + data if self._buffer else data)
        except Broken as broken:
            self._end(broken.code, broken.why)
        except Exception as failed:
            self._door.broke(failed)
            self._end(Code.INTERNAL, "the server failed on this connection; its log says why")
        self._rest()

    def eof_received(self) -> None:
        """Nobody is left to answer: gRPC's clients do not close one direction alone."""

    def connection_lost(self, exc: BaseException | None) -> None:
        self._gone = True
        self._door.leave(self)
        self._out.clear()
        for call in list(self._calls.values()):
            self._drop(call)

    def pause_writing(self) -> None:
        self._blocked = True
        self.deadline = self._loop.time() + self._limits.body_seconds
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._blocked = False
        if not self._transport.is_closing():
            self._transport.resume_reading()
        self._rest()
        for call in list(self._calls.values()):
            if call.on_room is not None and not call.out.parts:
                call.on_room()

    # Frames.

    def _feed(self, data: bytes) -> None:
        at, end = 0, len(data)
        if not self._preface:
            if not data.startswith(PREFACE[: min(end, len(PREFACE))]):
                raise Broken(Code.PROTOCOL, "this is no HTTP/2")
            if end < len(PREFACE):
                self._buffer = data
                return
            self._preface, at = True, len(PREFACE)
        while end - at >= 9:
            high, low, kind, flags, id = FRAME.unpack_from(data, at)
            size, id = high << 8 | low, id & MOST
            if size > _MAX_FRAME:
                raise Broken(Code.SIZE, f"a frame is larger than {_MAX_FRAME} bytes")
            start = at + 9
            if end - start < size:
                break
            at = start + size
            try:
                self._frame(kind, flags, id, data, start, at)
            except Reset as reset:
                self._charge()
                self._refuse(reset.id, reset.code)
            if self._gone:
                return
        self._buffer = data[at:]

    def _frame(self, kind: int, flags: int, id: int, data: bytes, start: int, end: int) -> None:
        if self._block is not None and (kind != CONTINUATION or id != self._block[0]):
            raise Broken(Code.PROTOCOL, "a head was not continued")
        if not self._settled:
            if kind != SETTINGS or flags & ACK:
                raise Broken(Code.PROTOCOL, "settings must come first")
            self._settled = True
        if kind == DATA:
            self._data(id, flags, data, start, end)
            return
        payload = data[start:end]
        if kind == WINDOW:
            if not self._outflow.untaken:  # else it brings an answer on its way
                self._charge()
            self._window(id, payload)
            return
        self._charge(1 + (end - start) // 64)
        if kind == HEADERS:
            self._headers(id, flags, unpadded(data, start, end, flags))
        elif kind == PING:
            self._ping(id, flags, payload)
        elif kind == SETTINGS:
            self._set(id, flags, payload)
        elif kind == RESET:
            self._reset_by_client(id, payload)
        elif kind == CONTINUATION:
            self._continue(flags, payload)
        elif kind == PRIORITY:
            if not id:
                raise Broken(Code.PROTOCOL, "a priority of the connection")
            if len(payload) != 5:
                raise Reset(id, Code.SIZE)
            check_dependency(id, payload)
        elif kind == GO_AWAY:
            if id:
                raise Broken(Code.PROTOCOL, "a call cannot go away")
        elif kind == PROMISE:
            raise Broken(Code.PROTOCOL, "a client must not push")

    def _charge(self, effort: int = 1) -> None:
        self._effort += effort
        if self._effort > _EFFORT:
            now = self._loop.time()
            if now - self._effort_since < 1:
                raise Broken(Code.CALM, "too many frames that bring nothing")
            self._effort, self._effort_since = 0, now

    def _earn(self, effort: int) -> None:
        self._effort = max(-_SAVED, self._effort - effort)

    def _headers(self, id: int, flags: int, payload: bytes) -> None:
        if not id & 1:
            raise Broken(Code.PROTOCOL, "a client's calls have odd numbers")
        if flags & PRIORITISED:
            if len(payload) < 5:
                raise Broken(Code.SIZE, "a head without its priority")
            dependency, payload = payload[:5], payload[5:]
        else:
            dependency = b""
        if flags & END_HEADERS:
            self._head(id, flags, payload)
        else:
            self._block = (id, flags, bytearray(payload), self._loop.time())
        if dependency:
            check_dependency(id, dependency)

    def _continue(self, flags: int, payload: bytes) -> None:
        if self._block is None:
            raise Broken(Code.PROTOCOL, "nothing is to be continued")
        id, first_flags, block, _ = self._block
        block += payload
        if len(block) > HEAD_BYTES:
            raise Broken(Code.CALM, f"a head is larger than {HEAD_BYTES} bytes")
        if flags & END_HEADERS:
            self._block = None
            self._head(id, first_flags, bytes(block))

    def _head(self, id: int, flags: int, block: bytes) -> None:
        head = self._heads.get(block) or self._decoded(block)
        call = self._calls.get(id)
        if call is not None:
            self._their_trailers(call, head, flags)
            return
        if id <= self._last:
            if id in self._reset:
                return
            raise Broken(Code.CLOSED, "a call has ended already")
        self._last = id
        if head.malformed:
            raise Reset(id, Code.PROTOCOL)
        if self._leaving or len(self._calls) >= _MAX_CALLS:
            raise Reset(id, Code.REFUSED)
        call = self._calls[id] = Call(self, id, head, self._outflow.call_window, self._limits.body_bytes)
        call.ended_in = bool(flags & END_STREAM)
        self._hold(call, head.size)
        self._app.began(call)
        if id not in self._calls:
            return
        if call.ended_in:
            self._ended(call)
        elif not call.patient:
            self._late[id] = self._loop.time()

    def _decoded(self, block: bytes) -> Head:
        table = self._decoder.header_table.dynamic_entries
        count, first = len(table), table[0] if table else None
        try:
            head = Head([(bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True)])
        except OversizedHeaderListError:
            raise Broken(Code.CALM, f"a head is larger than {HEAD_BYTES} bytes") from None
        except (HPACKError, IndexError) as error:
            raise Broken(Code.COMPRESSION, f"a head cannot be read: {error}") from None
        table = self._decoder.header_table.dynamic_entries
        if len(table) != count or (table and table[0] is not first):
            self._heads.clear()
        elif len(self._heads) < 16 and head.size < 2048:
            self._heads[block] = head
        return head

    def _their_trailers(self, call: Call, head: Head, flags: int) -> None:
        if call.ended_in:
            raise Reset(call.id, Code.CLOSED)
        if not flags & END_STREAM or not head.plain:
            raise Reset(call.id, Code.PROTOCOL)
        self._ended(call)

    def _data(self, id: int, flags: int, data: bytes, start: int, end: int) -> None:
        size = end - start
        self._room -= size
        if self._room < 0:
            raise Broken(Code.FLOW, "more than the window of the connection")
        if self._room < _CONNECTION_WINDOW_BYTES // 2:
            more = _CONNECTION_WINDOW_BYTES - self._room
            self._room = _CONNECTION_WINDOW_BYTES
            self._write(frame(WINDOW, 0, 0, more.to_bytes(4, "big")))
        call = self._calls.get(id)
        if call is None:
            if not id or id > self._last:
                raise Broken(Code.PROTOCOL, "data of no call")
            if id in self._reset:
                self._charge()
                return
            raise Reset(id, Code.CLOSED)
        if call.ended_in:
            raise Reset(id, Code.CLOSED)
        call.room -= size
        if call.room < 0:
            raise Reset(id, Code.FLOW)
        if flags & PADDED:
            body = unpadded(data, start, end, flags)
            self._grant(call, size - len(body))
        else:
            body = data[start:end]
        call.received += len(body)
        call.ended_in = bool(flags & END_STREAM)
        if not body and not call.ended_in:
            self._charge()
        if not call.finished and not call.deaf:
            self._receive(call, body)
            if call.buffer and not call.finished:
                self._late.setdefault(id, self._loop.time())
        if call.ended_in and id in self._calls:
            self._ended(call)

    # Messages.

    def _receive(self, call: Call, body: bytes) -> None:
        """Messages have a byte that says whether they are packed, and four of length."""
        buffer = call.buffer
        if not buffer and len(body) >= 5 and int.from_bytes(body[1:5], "big") == len(body) - 5:
            self._hold(call, len(body))
            if self._fits(call, len(body) - 5):
                self._deliver(call, body[0], body[5:])
            return
        if not body:
            return
        buffer += body
        self._hold(call, len(body))
        while len(buffer) >= 5 and not call.finished:
            size = int.from_bytes(buffer[1:5], "big")
            if not self._fits(call, size):
                return
            if len(buffer) < size + 5:
                if call.room < min(size + 5 - len(buffer), _WINDOW_BYTES // 2):
                    self._grant(call, _WINDOW_BYTES)
                return
            packed, message = buffer[0], bytes(buffer[5 : size + 5])
            del buffer[: size + 5]
            self._deliver(call, packed, message)

    def _fits(self, call: Call, size: int) -> bool:
        if size > call.most:
            self._turn_away(call, RESOURCE_EXHAUSTED, 413, f"the message is larger than {call.most} bytes")
        elif self._door.held > self._limits.all_requests_bytes:
            words = f"requests hold {self._door.held} bytes already; try again later"
            self._turn_away(call, RESOURCE_EXHAUSTED, 429, words)
        return not call.finished

    def _turn_away(self, call: Call, code: int, status: int, words: str) -> None:
        call.finish(code, words)
        self._app.gone(call, status, words)

    def _deliver(self, call: Call, packed: int, came: bytes) -> None:
        message: bytes | bytearray = came
        if packed:
            try:
                message = unpacked(came, call.packed, call.most)
            except Unreadable as refused:
                self._turn_away(call, INTERNAL if refused.known else UNIMPLEMENTED, 400, f"the message {refused}")
                return
            self._hold(call, len(message) - len(came))
            if not self._fits(call, len(message)):
                return
        call.owe(len(message) + 5)
        self._earn(_EFFORT_OF_MESSAGE)
        if call.patient:
            self._late.pop(call.id, None)
        self._app.message(call, message)

    def _ended(self, call: Call) -> None:
        call.ended_in = True
        if call.finished:
            return  # what is left of its answer is on its way
        self._late.pop(call.id, None)
        if call.head.length >= 0 and call.head.length != call.received:
            raise Reset(call.id, Code.PROTOCOL)
        if call.buffer:
            self._turn_away(call, INTERNAL, 400, "a message is cut short")
        else:
            self._app.ended(call)

    @property
    def blocked(self) -> bool:
        return self._blocked

    def settle(self, call: Call) -> None:
        paid = call.paid()
        self._hold(call, -paid)
        call.refund += paid
        if not call.out.parts:
            self._give_back(call)

    def send(self, call: Call, message: bytes, *, last: bool) -> None:
        if last:
            paid = call.paid()
            self._hold(call, -paid)
            call.refund += paid
        head = b""
        if not call.started:
            call.started = True
            head = frame(HEADERS, END_HEADERS, call.id, self._opened(OK_HEAD + ACCEPTS))
        size = len(message) + 5
        # A client says of each few kilobytes that it has them; and some, of each answer that comes by itself.
        self._earn(size // 4096 + (0 if last else 2))
        if self._outflow.whole(call.out, size):
            begin = FRAME.pack(size >> 8, size & 0xFF, DATA, 0, call.id)
            self._write(head, begin, b"\0", (size - 5).to_bytes(4, "big"), message)
            self._give_back(call)
        else:
            if head:
                self._write(head)
            self._write(*self._outflow.send(call.out, b"\0" + (size - 5).to_bytes(4, "big") + message))
            if not call.out.parts:
                self._give_back(call)

    def finish(self, call: Call, code: int, message: str) -> None:
        call.finished = True
        block = b"" if call.started else self._opened(OK_HEAD)
        call.started = True
        if code:
            block += literal(b"grpc-status", str(code).encode())
            # At most 1 KiB, so that every client takes it; percent-encoded as gRPC has it.
            block += literal(b"grpc-message", quote(message, safe=" !\"#$&'()*+,/:;<=>?@[\\]^`{|}~")[:1024].encode())
        else:
            block += OK_TRAILERS
        self._close(call, frame(HEADERS, END_HEADERS | END_STREAM, call.id, block))

    def answer_plainly(self, call: Call, status: int, text: str) -> None:
        call.finished = call.started = True
        head = literal(b":status", str(status).encode()) + literal(b"content-type", b"text/plain")
        self._write(frame(HEADERS, END_HEADERS, call.id, self._opened(head)))
        self._write(*self._outflow.send(call.out, text.encode()))
        self._close(call, frame(DATA, END_STREAM, call.id))

    def _opened(self, block: bytes) -> bytes:
        """An answer's head; the first of a connection says how much we remember."""
        block, self._first_block = self._first_block + block, b""
        return block

    def _close(self, call: Call, last: bytes) -> None:
        self._hold(call, -call.held)
        call.buffer = bytearray()
        self._late.pop(call.id, None)
        call.trailers = last
        if not call.out.parts:
            self._last_frame(call)

    def _last_frame(self, call: Call) -> None:
        self._write(call.trailers)
        if not call.ended_in:  # it need not send the rest
            self._say_reset(call.id, Code.NO_ERROR)
        self._forget(call)

    def _push(self, call: Call) -> None:
        """Its client has room for more of what waits."""
        self._write(*self._outflow.push(call.out))
        if call.out.parts:
            return
        if call.trailers:
            self._last_frame(call)
            return
        self._give_back(call)
        if call.on_room is not None:
            call.on_room()

    def _give_back(self, call: Call) -> None:
        """Room for more messages, once it has taken the answers to the former."""
        if not call.ended_in:
            self._grant(call, min(call.refund, _WINDOW_BYTES - call.room))
        call.refund = 0

    # The client's wishes.

    def _window(self, id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Broken(Code.SIZE, "a window of another size than four bytes")
        more = int.from_bytes(payload, "big") & MOST
        if not id:
            for waiting in self._outflow.widen(more):
                self._push(self._calls[waiting.id])
            return
        if id > self._last:
            raise Broken(Code.PROTOCOL, "a window of no call")
        call = self._calls.get(id)
        if not more:
            raise Reset(id, Code.PROTOCOL)
        if call is None:
            return
        self._outflow.widen_call(call.out, more)
        if call.out.parts:
            self._push(call)

    def _ping(self, id: int, flags: int, payload: bytes) -> None:
        if id:
            raise Broken(Code.PROTOCOL, "a ping of a call")
        if len(payload) != 8:
            raise Broken(Code.SIZE, "a ping of another size than eight bytes")
        if not flags & ACK:
            self._write(frame(PING, ACK, 0, payload))
            return
        self._pinged = None
        if self._going and payload == _LAST:
            self.go_away()

    def _set(self, id: int, flags: int, payload: bytes) -> None:
        if id:
            raise Broken(Code.PROTOCOL, "settings of a call")
        if flags & ACK:
            if payload:
                raise Broken(Code.SIZE, "settings in an acknowledgement")
            return
        if len(payload) % 6:
            raise Broken(Code.SIZE, "settings of a size that cannot be")
        window = self._outflow.call_window
        for name, value in struct.iter_unpack(">HI", payload):
            if name == CALL_WINDOW:
                if value > MOST:
                    raise Broken(Code.FLOW, "a window that cannot be")
                window = value
            elif name == FRAME_BYTES:
                self._outflow.resize_frames(value)
            elif name == PUSH and value > 1:
                raise Broken(Code.PROTOCOL, "a push that is neither on nor off")
        self._write(frame(SETTINGS, ACK, 0))
        if window != self._outflow.call_window:
            self._charge(1 + len(self._calls) // 8)
            for waiting in self._outflow.resize_calls(window, [call.out for call in self._calls.values()]):
                self._push(self._calls[waiting.id])

    def _reset_by_client(self, id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Broken(Code.SIZE, "a reset of another size than four bytes")
        if not id or id > self._last:
            raise Broken(Code.PROTOCOL, "a reset of no call")
        call = self._calls.get(id)
        if call is not None:
            self._drop(call)

    # Ends.

    def _say_reset(self, id: int, code: int) -> None:
        self._write(frame(RESET, 0, id, code.to_bytes(4, "big")))
        self._reset.append(id)

    def _refuse(self, id: int, code: int) -> None:
        self._say_reset(id, code)
        call = self._calls.get(id)
        if call is not None:
            self._drop(call)

    def _drop(self, call: Call) -> None:
        """Nobody waits for its answer."""
        told = call.finished
        call.finished = True
        self._hold(call, -call.held)
        self._forget(call)
        if not told:
            self._app.gone(call, CLIENT_GONE, "")

    def _forget(self, call: Call) -> None:
        self._late.pop(call.id, None)
        self._outflow.drop(call.out)
        call.on_room = None  # it knows the call
        if self._calls.pop(call.id, None) is not None and not self._calls:
            self._leave_if_done()

    def _hold(self, call: Call, change: int) -> None:
        call.held += change
        self._door.held += change

    def _grant(self, call: Call, more: int) -> None:
        if more > 0:
            call.room += more
            self._write(frame(WINDOW, 0, call.id, more.to_bytes(4, "big")))

    def _end(self, code: int, why: str) -> None:
        """The last word of this connection."""
        if self._gone:
            return
        self._write(frame(GO_AWAY, 0, 0, struct.pack(">II", self._last, code) + why.encode()))
        self._hang_up()
        for call in list(self._calls.values()):
            self._drop(call)

    def _hang_up(self) -> None:
        """Once all is sent; and not at once where its client may still send: a reset would take the last from it."""
        self._gone = True
        self._flush()
        unsent = self._transport.get_write_buffer_size()
        self.deadline = self._loop.time() + (self._limits.body_seconds if unsent else LINGER_SECONDS)
        if not self._transport.can_write_eof():
            self._transport.close()
        elif not self._transport.is_closing():
            self._transport.write_eof()
            self._transport.resume_reading()

    def go_away(self) -> None:
        """Asks the client to call elsewhere, and when asked again, or when the client has heard it, tells it which call
        was the last. What it has begun, also what is on its way, is answered."""
        if self._gone or self._leaving:
            return
        self._leaving, self._going = self._going, True
        last = self._last if self._leaving else MOST
        self._write(frame(GO_AWAY, 0, 0, struct.pack(">II", last, Code.NO_ERROR)))
        if self._leaving:
            self._leave_if_done()
        else:
            self._write(frame(PING, 0, 0, _LAST))
            self._retires = self._loop.time() + _SOON
            if not self._blocked:
                self.deadline = min(self.deadline, self._retires)

    def _leave_if_done(self) -> None:
        if self._leaving and not self._calls and not self._gone:
            self._hang_up()

    # As `door` sees it.

    def _rest(self) -> None:
        """So long may it take for what comes next."""
        if self._blocked or self._gone:
            return
        limits, now = self._limits, self._loop.time()
        self.heard = now
        if self._block is not None:
            due = self._block[3] + limits.head_seconds
        elif self._late or self._outflow.untaken:
            due = min(next(iter(waits.values()), FOREVER) for waits in (self._late, self._outflow.untaken))
            due += limits.body_seconds
        elif not self._settled or (self.crowded and not self._calls):
            due = self._born + limits.head_seconds
        else:
            due = now + limits.idle_seconds
        self.deadline = min(due, self._retires)

    def expired(self) -> None:
        if self._blocked or self._gone:
            self._transport.abort()
            return
        limits, now = self._limits, self._loop.time()
        if now >= self._retires:
            self._retires = FOREVER
            self.go_away()
        if self._block is not None and self._block[3] + limits.head_seconds <= now:
            self._end(Code.PROTOCOL, f"the head did not come within {limits.head_seconds:g} seconds")
        elif not self._settled or (self.crowded and not self._calls):
            if self._born + limits.head_seconds <= now:
                self._end(Code.NO_ERROR, "")
        elif self.heard + limits.idle_seconds <= now:
            if not self._calls:
                self.go_away()
            elif self._pinged is None:
                self._pinged = now
                self._write(frame(PING, 0, 0, bytes(8)))
            elif self._pinged + limits.idle_seconds <= now:
                self._transport.abort()
        for id in _since(self._outflow.untaken, now - limits.body_seconds):
            self._refuse(id, Code.CANCEL)
        words = f"the message and its end did not come within {limits.body_seconds:g} seconds"
        for id in _since(self._late, now - limits.body_seconds):
            self._turn_away(self._calls[id], DEADLINE_EXCEEDED, 408, words)
        heard = self.heard
        self._rest()
        self.heard = heard

    @property
    def idle(self) -> bool:
        """Nothing is on its way to it nor from it."""
        unsent = self._out or self._transport.get_write_buffer_size()
        return not self._calls and self._block is None and not self._gone and not unsent

    @property
    def begun(self) -> bool:
        """It has sent a part of its first head, and nothing since."""
        return self._block is not None and not self._calls

    def close_if_idle(self) -> None:
        for call in list(self._calls.values()):
            self._app.leaving(call)
        if self._calls:
            self.go_away()
        else:
            self._end(Code.NO_ERROR, "")

    def abort(self) -> None:
        self._transport.abort()

    # To the transport.

    def _write(self, *parts: bytes) -> None:
        """With whatever else is written in this turn of the loop: many answers, one system call."""
        if self._gone:
            return
        self._out += parts
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._out and not self._transport.is_closing():
            self._transport.write(b"".join(self._out))
        self._out.clear()


def _since(waits: dict[int, float], moment: float) -> list[int]:
    return [id for id, since in waits.items() if since <= moment]
