"""The Open Inference Protocol's gRPC service, and gRPC's own health service: which calls there are, what each answers.

A second face of `edge`: the same model, the same counts, the same words. `http2` brings whole messages, `protobuf`
reads them. What HTTP answers with a status has here the code that google.rpc.Code puts beside it.
"""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from . import __version__, http2, protobuf, protocol
from .edge import EXTENSIONS, GOING, LOADING, UNKNOWN, Edge
from .engine import Engine, Job, QueueFull, Result
from .http2 import Call
from .protobuf import CLASSES, HEALTH, NOT_SERVING, SERVICE, SERVING

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
    """To the message, at once; None: it asks for inference."""
    probe: bool = False
    streams: bool = False


class State:
    """What is known of a call on its way."""

    __slots__ = ("message", "method", "order")

    def __init__(self, method: Method) -> None:
        self.method = method
        self.message: bytes | bytearray | None = None
        """The one that a call without streams has; answered when nothing comes after it."""
        self.order: deque[Inference] = deque()
        """What is not answered yet, as it was asked."""


class Inference:
    """One message of a call that asks for it, until it is answered."""

    __slots__ = ("asked", "began", "call", "engine", "id", "job", "reply")

    def __init__(self, call: Call, began: float) -> None:
        self.call, self.began = call, began
        self.id = ""
        self.asked: protocol.InferRequest | None = None
        self.engine: Engine | None = None
        self.job: Job | None = None
        self.reply: bytes | None = None
        """For its turn."""


class Rpc:
    def __init__(self, edge: Edge) -> None:
        self._edge, self._settings = edge, edge.settings
        methods = {
            "ServerLive": Method("ServerLiveRequest", self._live, probe=True),
            "ServerReady": Method("ServerReadyRequest", self._ready, probe=True),
            "ModelReady": Method("ModelReadyRequest", self._model_ready),
            "ServerMetadata": Method("ServerMetadataRequest", self._server),
            "ModelMetadata": Method("ModelMetadataRequest", self._model),
            "RepositoryIndex": Method("RepositoryIndexRequest", self._index),
            "ModelInfer": Method("ModelInferRequest"),
            "ModelStreamInfer": Method("ModelInferRequest", streams=True),
        }
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
            if method.answer is not None:
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
        if state is None or not state.order:
            if said:
                self._log(call, status, call.began, time.perf_counter(), said=said)
            return
        for one in state.order:
            if one.job is not None and one.engine is not None:
                one.engine.cancel(one.job)
            if one.reply is None:
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
                call.send(method.answer(protobuf.read(method.request, message)).SerializeToString())
                call.finish()
                if not method.probe:
                    self._log(call, 200, call.began, time.perf_counter())
                return
            one = self._begin(call, time.perf_counter()) if method.streams else call.state.order[0]
            self._submit(one, protobuf.read(method.request, message))
        except Exception as failed:
            self._fail(call, one, failed)

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
        self._check_name(request.model_name, request.model_version)
        if (serving := self._edge.serving) is None:
            raise Loading
        if serving.engine.full:
            raise QueueFull
        asked = one.asked = protobuf.parse_request(request, serving.signature)
        timeout = min(asked.timeout, _left(one.call))
        one.engine = serving.engine
        one.job = serving.engine.submit(asked.inputs, asked.rows, partial(self._ran, one), asked.priority, timeout)

    def _ran(self, one: Inference, result: Result) -> None:
        """The model's outputs, or why there are none."""
        call = one.call
        if isinstance(result, Exception):
            self._fail(call, one, result)
            return
        assert self._edge.serving is not None and one.asked is not None
        name, version = self._settings.model_name, self._settings.model_version
        try:
            answer = protobuf.answer(name, version, one.asked, result, self._edge.serving.signature)
            if call.state.method.streams:
                answer = CLASSES["ModelStreamInferResponse"](infer_response=answer)
            reply = answer.SerializeToString()
        except Exception as failed:
            self._fail(call, one, failed)
            return
        self._reply(one, reply, 200, "")

    def _fail(self, call: Call, one: Inference | None, failed: Exception) -> None:
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

    def _reply(self, one: Inference, reply: bytes, status: int, said: str) -> None:
        """Sent when those that were asked for before it have been."""
        call, order = one.call, one.call.state.order
        one.reply = reply
        self._end(one, status, said)
        while order and (first := order[0].reply) is not None:
            order.popleft()
            call.send(first)
        if not call.state.method.streams or (call.ended_in and not order and not call.buffer):
            call.finish()

    def _end(self, one: Inference, status: int, said: str) -> None:
        now = time.perf_counter()
        rows = one.asked.rows if one.asked is not None else None
        one.job = one.asked = None
        self._edge.end(one.began, status, now)
        self._log(one.call, status, one.began, now, rows, said)

    def _log(self, call: Call, status: int, began: float, now: float, rows: int | None = None, said: str = "") -> None:
        if self._edge.access.wanted(status, now):
            request_id = call.head.headers.get(b"x-request-id", b"")
            self._edge.log(status, "POST", call.head.path.decode("latin-1"), began, now, rows, said, request_id)

    # What else may be asked.

    def _check_name(self, name: str, version: str) -> None:
        if name != self._settings.model_name:
            raise NotFound(self._edge.unknown_model(name))
        if version not in ("", self._settings.model_version):
            raise NotFound(self._edge.unknown_version(version))

    def _live(self, _request: Any) -> Any:
        return CLASSES["ServerLiveResponse"](live=True)

    def _ready(self, _request: Any) -> Any:
        return CLASSES["ServerReadyResponse"](ready=self._edge.is_ready)

    def _model_ready(self, request: Any) -> Any:
        self._check_name(request.name, request.version)
        return CLASSES["ModelReadyResponse"](ready=self._edge.is_ready)

    def _health(self, request: Any) -> Any:
        if request.service not in ("", SERVICE):
            raise NotFound(f"unknown service {request.service[:80]!r}; there is {SERVICE}")
        return CLASSES["HealthCheckResponse"](status=SERVING if self._edge.is_ready else NOT_SERVING)

    def _server(self, _request: Any) -> Any:
        return CLASSES["ServerMetadataResponse"](name="moorage", version=__version__, extensions=EXTENSIONS)

    def _model(self, request: Any) -> Any:
        self._check_name(request.name, request.version)
        if self._edge.serving is None:
            raise Loading
        return CLASSES["ModelMetadataResponse"](**self._edge.metadata())

    def _index(self, request: Any) -> Any:
        return CLASSES["RepositoryIndexResponse"](models=self._edge.index(only_ready=request.ready))


def _left(call: Call) -> float:
    """Seconds until its client has no use for an answer; what is said of it and makes no sense is not heard."""
    value = call.head.headers.get(b"grpc-timeout", b"")
    unit = _UNITS.get(value[-1:])
    if unit is None or not value[:-1].isdigit() or len(value) > 9:
        return math.inf
    return max(1e-6, int(value[:-1]) * unit - (time.perf_counter() - call.began))
