"""The Open Inference Protocol's gRPC service, and gRPC's own health service: which calls there are, what each answers.

A second face of `edge`: the same model, the same counts, the same words. `http2` brings whole messages, `protobuf`
reads them. What HTTP answers with a status has here the code that google.rpc.Code puts beside it.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from . import __version__, http2, protobuf, protocol
from .decoupled import Text
from .edge import GOING, LOADING, UNKNOWN, Edge
from .engine import QueueFull, Result
from .http2 import Call
from .protobuf import CLASSES, HEALTH, NOT_SERVING, SERVICE, SERVING
from .repository import Entry
from .signature import Signature

# https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto
_CODES = {400: 3, 401: 16, 404: 5, 429: http2.RESOURCE_EXHAUSTED, 500: http2.INTERNAL}
_CODES |= {501: http2.UNIMPLEMENTED, 503: http2.UNAVAILABLE, 504: http2.DEADLINE_EXCEEDED}
_SMALL = 4096
"""Bytes of a message that asks for no inference: a name or two."""
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


class NotFound(Exception):
    """No such model, version or service."""


class Loading(Exception):
    """There is no model yet."""


@dataclass(frozen=True, slots=True)
class Method:
    request: str
    answer: Callable[[Any], Any] | None = None
    """To the message, at once."""
    later: Callable[[Call, Any], None] | None = None
    """Where the answer may have to wait for a model. Neither: it asks for inference."""
    probe: bool = False
    streams: bool = False

    @property
    def infers(self) -> bool:
        return self.answer is None and self.later is None


class State:
    """What is known of a call on its way."""

    __slots__ = ("entry", "message", "method", "order")

    def __init__(self, method: Method) -> None:
        self.method = method
        self.entry: Entry | None = None
        """The model that the call itself waits for."""
        self.message: bytes | bytearray | None = None
        """The one that a call without streams has; answered when nothing comes after it."""
        self.order: deque[Inference] = deque()
        """What is not answered yet, as it was asked."""


class Inference:
    """One message of a call that asks for it, until it is answered."""

    __slots__ = ("asked", "began", "call", "cancel", "ended", "entry", "id", "late", "on_room", "replies")

    def __init__(self, call: Call, began: float) -> None:
        self.call, self.began = call, began
        self.id = ""
        self.asked: protocol.InferRequest | None = None
        self.entry: Entry | None = None
        self.late = False
        """It has waited for its model."""
        self.cancel: Callable[[], None] | None = None
        """Tells who works for it that nobody waits any more."""
        self.replies: deque[bytes] = deque()
        """For its turn."""
        self.ended = False
        """There will be no more of them."""
        self.on_room: Callable[[], None] | None = None
        """Of a text, which is answered piece by piece: called when it is its turn and its client has taken all."""


class Rpc:
    def __init__(self, edge: Edge) -> None:
        self._edge, self._repository = edge, edge.repository
        methods = {
            "ServerLive": Method("ServerLiveRequest", self._live, probe=True),
            "ServerReady": Method("ServerReadyRequest", self._ready, probe=True),
            "ModelReady": Method("ModelReadyRequest", self._model_ready),
            "ServerMetadata": Method("ServerMetadataRequest", self._server),
            "ModelMetadata": Method("ModelMetadataRequest", later=self._model),
            "RepositoryIndex": Method("RepositoryIndexRequest", self._index),
            "ModelInfer": Method("ModelInferRequest"),
            "ModelStreamInfer": Method("ModelInferRequest", streams=True),
        }
        if self._repository.several:
            methods["RepositoryModelLoad"] = Method("RepositoryModelLoadRequest", later=self._load)
            methods["RepositoryModelUnload"] = Method("RepositoryModelUnloadRequest", later=self._unload)
        self._methods = {f"/{SERVICE}/{name}".encode(): method for name, method in methods.items()}
        self._methods[f"/{HEALTH}/Check".encode()] = Method("HealthCheckRequest", self._health, probe=True)
        self._no_such = f"no such method; {SERVICE} has {', '.join(methods)}, and {HEALTH} has Check"

    # As `http2` calls it.

    def began(self, call: Call) -> None:
        head = call.head
        if head.method != b"POST" or not head.headers.get(b"content-type", b"").startswith(b"application/grpc"):
            call.deaf = True  # told when it has been sent
            return
        method = self._methods.get(head.path)
        if method is not None and method.probe:
            refusal = None
        elif not self._edge.allowed(head.headers):
            refusal = 401, UNKNOWN
        elif method is None:
            refusal = 501, self._no_such
        elif call.crowded:
            refusal = 503, self._edge.crowded
        else:
            refusal = None
        if method is not None:
            call.state, call.patient = State(method), method.streams
            if not method.infers:
                call.most = _SMALL
            elif not method.streams:  # in flight from its head on, as over HTTP
                self._begin(call, call.began)
        if refusal is not None:
            status, words = refusal
            call.finish(_CODES[status], words)
            self.gone(call, status, words)

    def message(self, call: Call, message: bytes | bytearray) -> None:
        state: State = call.state
        if state.method.streams:
            self._answer(call, message)
        elif state.message is None:
            state.message = message
        else:
            self._give_up(call, "this method takes one message")

    def ended(self, call: Call) -> None:
        state: State | None = call.state
        if state is None:
            call.plainly(415, "in HTTP/2 this port speaks gRPC (application/grpc); all else is HTTP/1.1")
        elif state.method.streams:
            if not state.order:
                call.finish()
        elif state.message is None:
            self._give_up(call, "the call has no message")
        else:
            message, state.message = state.message, None
            self._answer(call, message)

    def gone(self, call: Call, status: int, said: str) -> None:
        state: State | None = call.state
        if state is not None and state.entry is not None:
            self._repository.forget(state.entry, call)
        if state is None or not state.order:
            if said:
                self._log(call, status, call.began, time.perf_counter(), said=said)
            return
        for one in state.order:
            if one.entry is not None:
                self._repository.forget(one.entry, one)
            if one.cancel is not None:
                one.cancel()
            if not one.ended:
                self._end(one, status, said)
        state.order.clear()

    def leaving(self, call: Call) -> None:
        state: State | None = call.state
        if state is not None and state.method.streams and not state.order:
            call.finish(http2.UNAVAILABLE, GOING)

    def _answer(self, call: Call, message: bytes | bytearray) -> None:
        method, one = call.state.method, None
        try:
            if method.answer is not None:
                self._send(call, method.answer(protobuf.read(method.request, message)))
                return
            if method.later is not None:
                method.later(call, protobuf.read(method.request, message))
                return
            one = self._begin(call, time.perf_counter()) if method.streams else call.state.order[0]
            self._submit(one, protobuf.read(method.request, message))
        except Exception as failed:
            self._fail(call, one, failed)

    def _send(self, call: Call, answer: Any) -> None:
        call.send(answer.SerializeToString())
        call.finish()
        if not call.state.method.probe:
            self._log(call, 200, call.began, time.perf_counter())

    def _give_up(self, call: Call, words: str) -> None:
        """Its client does not keep to what a call of this method is."""
        call.finish(http2.INTERNAL, words)
        self.gone(call, 400, words)

    # Inference.

    def _begin(self, call: Call, at: float) -> Inference:
        one = Inference(call, at)
        call.state.order.append(one)
        self._edge.begin(at)
        return one

    def _submit(self, one: Inference, request: Any) -> None:
        one.id = request.id
        entry = one.entry = self._named(request.model_name, request.model_version)
        if not self._repository.ready:
            raise Loading
        if (engine := entry.engine) is None or entry.signature is None:
            one.late = True
            self._repository.want(entry, one, partial(self._resume, one, request))
            return
        streams_text = one.call.state.method.streams and entry.generations is not None and entry.generations.only
        if engine.full and not streams_text:
            raise QueueFull
        asked = one.asked = protobuf.parse_request(request, entry.signature)
        if streams_text:
            self._begin_text(one, entry, Text(entry, asked, protobuf.parameters(request.parameters), one.began))
            return
        ran = partial(self._ran, one, entry.signature)
        one.cancel = self._edge.submit(entry, engine, asked, ran, one.began, late=one.late, within=_left(one.call))

    def _begin_text(self, one: Inference, entry: Entry, text: Text) -> None:
        call, generations = one.call, entry.generations
        assert generations is not None
        entry.used = max(entry.used, one.began)

        def piece(more: str) -> bool:
            reply = text.piece(more)
            if one is not call.state.order[0]:
                one.replies.append(reply)
                return False
            call.send(reply, last=False)
            return not call.behind

        def end(failed: Exception | None) -> None:
            if failed is not None:
                self._fail(call, one, failed)
            else:
                self._reply(one, text.last(), 200, "")

        running = generations.submit(text.input, text.parameters, piece, end)
        one.cancel, one.on_room = partial(generations.cancel, running), partial(generations.has_room, running)
        call.on_room = partial(self._has_room, call)

    def _has_room(self, call: Call) -> None:
        order = call.state.order
        if not call.behind and order and (told := order[0].on_room) is not None:
            told()

    def _resume(self, one: Inference, request: Any, failed: Exception | None) -> None:
        """Its model is there, or will not be."""
        try:
            if failed is not None:
                raise failed
            self._submit(one, request)
        except Exception as error:
            self._fail(one.call, one, error)

    def _ran(self, one: Inference, signature: Signature, result: Result) -> None:
        """The model's outputs, or why there are none."""
        call = one.call
        if isinstance(result, Exception):
            self._fail(call, one, result)
            return
        assert one.entry is not None and one.asked is not None
        source = one.entry.source
        try:
            answer = protobuf.answer(source.name, source.version, one.asked, result, signature)
            if call.state.method.streams:
                answer = CLASSES["ModelStreamInferResponse"](infer_response=answer)
            reply = answer.SerializeToString()
        except Exception as failed:
            self._fail(call, one, failed)
            return
        self._reply(one, reply, 200, "")

    def _fail(self, call: Call, one: Inference | None, failed: BaseException) -> None:
        if isinstance(failed, NotFound):
            status, words = 404, str(failed)
        elif isinstance(failed, Loading):
            status, words = 503, LOADING
        else:
            status, words = self._edge.verdict(call.head.path.decode("latin-1"), failed)
        if one is not None and call.state.method.streams:  # a stream goes on
            answer = CLASSES["ModelStreamInferResponse"](error_message=words, infer_response={"id": one.id})
            self._reply(one, answer.SerializeToString(), status, words)
        else:
            call.finish(_CODES[status], words)
            self.gone(call, status, words)

    def _reply(self, one: Inference, reply: bytes | None, status: int, said: str) -> None:
        """Its last; sent when those that were asked for before it have been."""
        if reply is not None:
            one.replies.append(reply)
        one.ended = True
        self._end(one, status, said)
        self._flush(one.call)

    def _flush(self, call: Call) -> None:
        """What there is for the first, and when it has ended for the next."""
        order = call.state.order
        while order:
            first, settled = order[0], False
            while first.replies:
                reply = first.replies.popleft()
                settled = first.ended and not first.replies
                call.send(reply, last=settled)
            if not first.ended:
                self._has_room(call)
                return
            if not settled:
                call.settle()
            order.popleft()
        if not call.state.method.streams or (call.ended_in and not order and not call.buffer):
            call.finish()

    def _end(self, one: Inference, status: int, said: str) -> None:
        now = time.perf_counter()
        rows = one.asked.rows if one.asked is not None else None
        one.cancel = one.asked = one.on_room = None
        self._edge.end(one.entry, one.began, status, now)
        self._log(one.call, status, one.began, now, rows, said)

    def _log(self, call: Call, status: int, began: float, now: float, rows: int | None = None, said: str = "") -> None:
        if self._edge.access.wanted(status, now):
            request_id = call.head.headers.get(b"x-request-id", b"")
            self._edge.log(status, "POST", call.head.path.decode("latin-1"), began, now, rows, said, request_id)

    # What else may be asked.

    def _named(self, name: str, version: str = "") -> Entry:
        if (entry := self._repository.entries.get(name)) is None:
            raise NotFound(self._edge.unknown_model(name))
        if version not in ("", entry.source.version):
            raise NotFound(self._edge.unknown_version(entry, version))
        return entry

    def _live(self, _request: Any) -> Any:
        return CLASSES["ServerLiveResponse"](live=True)

    def _ready(self, _request: Any) -> Any:
        return CLASSES["ServerReadyResponse"](ready=self._edge.is_ready)

    def _model_ready(self, request: Any) -> Any:
        entry = self._named(request.name, request.version)
        return CLASSES["ModelReadyResponse"](ready=self._edge.is_ready and entry.failed is None)

    def _health(self, request: Any) -> Any:
        if request.service not in ("", SERVICE):
            raise NotFound(f"unknown service {request.service[:80]!r}; there is {SERVICE}")
        return CLASSES["HealthCheckResponse"](status=SERVING if self._edge.is_ready else NOT_SERVING)

    def _server(self, _request: Any) -> Any:
        return CLASSES["ServerMetadataResponse"](name="moorage", version=__version__, extensions=self._edge.extensions)

    def _model(self, call: Call, request: Any, failed: Exception | None = None) -> None:
        try:
            entry = self._named(request.name, request.version)
            if failed is not None:
                raise failed
            if not self._repository.ready:
                raise Loading
            if entry.signature is None:
                call.state.entry = entry
                self._repository.want(entry, call, partial(self._model, call, request))
                return
            self._send(call, CLASSES["ModelMetadataResponse"](**self._edge.metadata(entry)))
        except Exception as error:
            self._fail(call, None, error)

    def _load(self, call: Call, request: Any) -> None:
        entry = call.state.entry = self._named(request.model_name)
        if not self._repository.ready:
            raise Loading
        self._repository.load(entry, call, partial(self._loaded, call, "RepositoryModelLoadResponse"))

    def _loaded(self, call: Call, answer: str, failed: BaseException | None) -> None:
        if failed is None:
            self._send(call, CLASSES[answer]())
        else:
            self._fail(call, None, failed)

    def _unload(self, call: Call, request: Any) -> None:
        entry = self._named(request.model_name)
        if not self._repository.ready:
            raise Loading
        unloading = asyncio.create_task(self._repository.unload(entry))
        answer = "RepositoryModelUnloadResponse"
        unloading.add_done_callback(lambda ended: self._loaded(call, answer, ended.exception()))

    def _index(self, request: Any) -> Any:
        return CLASSES["RepositoryIndexResponse"](models=self._edge.index(only_ready=request.ready))


def _left(call: Call) -> float:
    """Seconds until its client has no use for an answer; what is said of it and makes no sense is not heard."""
    value = call.head.headers.get(b"grpc-timeout", b"")
    unit = _UNITS.get(value[-1:])
    if unit is None or not value[:-1].isdigit() or len(value) > 9:
        return math.inf
    return max(1e-6, int(value[:-1]) * unit - (time.perf_counter() - call.began))
