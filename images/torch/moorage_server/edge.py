"""The Open Inference Protocol's paths: which there are, what each answers, and what an error is called in HTTP.

Thin: `http1` brings whole `messages`, `protocol` parses them, `engine` runs them; here they meet. Every request leaves
a count, a time and a line in the log.
"""

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import parse_qs

import orjson
import structlog

from . import __version__, generate, protocol
from .engine import Engine, ModelFailed, QueueFull, Result, Stopped, TimedOut
from .generations import Generations
from .logs import AccessLog
from .messages import CLIENT_GONE, Request, Response, error
from .metrics import Metrics
from .preparing import Preparing
from .repository import Entry, NotLoaded, Repository
from .security import Tokens
from .settings import Settings
from .signature import Signature

PLATFORMS = {
    "TorchExport": "pytorch_torchexport", "TorchScript": "pytorch_torchscript", "AOTInductor": "torch_aoti",
    "ONNX": "onnxruntime_onnx", "Python": "python", "Safetensors": "pytorch_module",
}  # fmt: skip
_EXTENSIONS = ["binary_tensor_data", "schedule_policy"]
_LAST: tuple[list[str], ...] = ([], ["ready"], ["infer"], ["generate"], ["generate_stream"])
NO_SUCH_PATH = (
    "no such path; there are /v2/health/{live,ready}, /v2, "
    "/v2/models/NAME[/versions/V][/ready|/infer|/generate|/generate_stream], "
    "/v2/repository/index and, where several models are served, /v2/repository/models/NAME/{load,unload}"
)
UNKNOWN = "a bearer token is needed that this server knows: send Authorization: Bearer TOKEN"
LOADING = "the model is still loading"
GOING = "the server is going away; ask another replica"
_CHALLENGE = "WWW-Authenticate: Bearer\r\n"
_SOON = "Retry-After: 1\r\n"
_GET, _POST = (b"GET", b"HEAD"), (b"POST",)


@dataclass(frozen=True, slots=True)
class Route:
    methods: tuple[bytes, ...]
    call: Callable[[Request], Response | None]
    entry: Entry | None = None
    """The model that it is about."""
    infers: bool = False
    probe: bool = False
    needs_model: bool = False
    """To infer it has to be in memory; to tell of it, to have been there."""
    batched: bool = True
    """It waits for a batch."""


class State:
    """What the edge knows of a request on its way."""

    __slots__ = ("asked", "cancel", "late", "route")

    def __init__(self, route: Route) -> None:
        self.route = route
        self.asked: protocol.InferRequest | None = None
        self.late = False
        """It has waited for its model."""
        self.cancel: Callable[[], None] | None = None
        """Tells who works for it that nobody waits any more."""


@dataclass(slots=True)
class Edge:
    """Where there are `tokens`, all but probes need one. `draining` is set once the server is to go."""

    settings: Settings
    metrics: Metrics
    repository: Repository
    tokens: Tokens | None = None
    draining: bool = False
    last_request: float = 0.0  # of inference, by time.perf_counter(); probes are not what a drain waits for
    _routes: dict[bytes, Route] = field(init=False)
    access: AccessLog = field(init=False)
    _log: Any = field(init=False)

    def __post_init__(self) -> None:
        self.access, self._log = AccessLog(self.settings.log_level), structlog.get_logger()
        self._routes = {
            b"/v2/health/live": Route(_GET, self._live, probe=True),
            b"/v2/health/ready": Route(_GET, self._ready, probe=True),
            b"/v2": Route(_GET, self._server),
            b"/v2/repository/index": Route(_POST, self._index),
        }
        for name, entry in self.repository.entries.items():
            model = f"/v2/models/{name}".encode()
            for path in (model, model + f"/versions/{entry.source.version}".encode()):
                self._routes[path] = Route(_GET, self._model, entry, needs_model=True)
                self._routes[path + b"/ready"] = Route(_GET, self._model_ready, entry)
                self._routes[path + b"/infer"] = Route(_POST, self._infer, entry, infers=True, needs_model=True)
                for end, call in ((b"/generate", self._generate), (b"/generate_stream", self._generate_stream)):
                    self._routes[path + end] = Route(_POST, call, entry, infers=True, needs_model=True, batched=False)
            if self.repository.several:
                path = f"/v2/repository/models/{name}".encode()
                self._routes[path + b"/load"] = Route(_POST, self._load, entry)
                self._routes[path + b"/unload"] = Route(_POST, self._unload, entry)

    # As `http1` calls it.

    def head(self, request: Request) -> Response | None:
        # As it is written nearly always; else decoded, and without its query.
        route = self._routes.get(request.target) or self._routes.get(request.path.encode())
        if (route is None or not route.probe) and not self.allowed(request.headers):
            route = route or Route((), self._live, infers=request.path.endswith("/infer"))
            refusal: Response | None = error(401, UNKNOWN, _CHALLENGE)
        elif route is None:
            path = request.path
            route = Route((), self._live, infers=path.endswith("/infer"))
            refusal = error(404, self._why_not(path))
        else:
            refusal = self._refused(request, route)
        request.state = State(route)
        if route.infers:
            self.begin(request.began)
        return refusal

    def call(self, request: Request) -> Response | None:
        route: Route = request.state.route
        try:
            entry = route.entry
            if entry is not None and route.needs_model and not (entry.engine if route.infers else entry.signature):
                request.state.late = True
                self.repository.want(entry, request, partial(self._resume, request))
                return None
            return route.call(request)
        except Exception as failed:
            return self._told(request, failed)

    def _resume(self, request: Request, failed: Exception | None) -> None:
        """What it waited for is there, or will not be."""
        response = self.call(request) if failed is None else self._told(request, failed)
        if response is not None:
            request.answer(response)

    def done(self, request: Request, status: int, said: str) -> None:
        state: State | None = request.state
        now = time.perf_counter()
        began = request.began or now
        asked = None
        if state is not None:
            asked = state.asked
            route = state.route
            if status == CLIENT_GONE and route.entry is not None:
                self.repository.forget(route.entry, request)
            if route.infers:
                if status == CLIENT_GONE and state.cancel is not None:
                    state.cancel()
                # It knows this request, and a model: neither must wait for the next one or for the garbage collector.
                state.cancel = request.on_room = None
                self.end(route.entry, began, status, now)
            if state.route.probe and self.settings.log_level != "debug":
                return
        if not self.access.wanted(status, now):
            return
        request_id = request.headers.get(b"x-request-id", b"")
        rows = asked.rows if asked is not None else None
        self.log(status, request.method.decode(), request.path, began, now, rows, said, request_id, bytes=request.size)

    # What is counted and written down of every request, in whatever protocol it came.

    def begin(self, at: float) -> None:
        """Of inference; by time.perf_counter()."""
        self.last_request = at
        self.metrics.in_flight.begin(at)

    def submit(
        self,
        entry: Entry,
        engine: Engine,
        asked: protocol.InferRequest,
        ran: Callable[[Result], None],
        began: float,
        *,
        late: bool,
        within: float = math.inf,
    ) -> Callable[[], None]:
        """`late`: it has waited for its model, which counts as waiting; `within`: seconds, where its protocol says
        besides how long its client waits. What is returned gives it up. Raises TimedOut, and what `Engine.submit`
        raises."""
        timeout = min(within, asked.timeout - (time.perf_counter() - began) if late else asked.timeout)
        if timeout <= 0:
            raise TimedOut
        entry.used = max(entry.used, began)
        if entry.preprocess is not None:
            threads, room = self.repository.preparers, self.repository.made
            return Preparing(entry, engine, entry.preprocess, threads, room, asked, ran, timeout).cancel
        return partial(engine.cancel, engine.submit(asked.inputs, asked.rows, ran, asked.priority, timeout))

    def end(self, entry: Entry | None, began: float, status: int, now: float) -> None:
        self.metrics.in_flight.end(began, now - began)
        (self.metrics.nobody if entry is None else entry.metrics).answered(status, now - began)
        self.last_request = now

    def log(
        self,
        status: int,
        method: str,
        path: str,
        began: float,
        now: float,
        rows: int | None = None,
        said: str = "",
        request_id: bytes = b"",
        **more: Any,
    ) -> None:
        """A line; for those that `access` wants."""
        if rows is not None:
            more["rows"] = rows
        if said:
            more["error"] = said[:300]
        if request_id:
            more["request_id"] = request_id[:100].decode("utf-8", "replace")
        self.access.write(status, method, path, now - began, **more)

    # What may be asked.

    def _live(self, _request: Request) -> Response:
        return _json({"live": True})

    def _ready(self, _request: Request) -> Response:
        return _json({"ready": self.is_ready}, 200 if self.is_ready else 503)

    def _server(self, _request: Request) -> Response:
        return _json({"name": "moorage", "version": __version__, "extensions": self.extensions})

    def _index(self, request: Request) -> Response:
        return Response(200, orjson.dumps(self.index(only_ready=protocol.wants_only_ready(request.body))))

    def index(self, *, only_ready: bool) -> list[dict[str, str]]:
        """Of Triton's model repository extension."""
        found = []
        for name, entry in self.repository.entries.items():
            state, reason = entry.state if self.is_ready else ("UNAVAILABLE", "it is loading or the server is going")
            if state == "READY" or not only_ready:
                found.append({"name": name, "version": entry.source.version, "state": state, "reason": reason})
        return found

    def _load(self, request: Request) -> None:
        entry = _entry(request)
        self.repository.load(entry, request, partial(self._loaded, request))

    def _loaded(self, request: Request, failed: BaseException | None) -> None:
        request.answer(_json({}) if failed is None else self._told(request, failed))

    def _unload(self, request: Request) -> None:
        unloading = asyncio.create_task(self.repository.unload(_entry(request)))
        unloading.add_done_callback(lambda ended: self._loaded(request, ended.exception()))

    def _model(self, request: Request) -> Response:
        entry = _entry(request)
        # More than the protocol has, and where it has no place for it: gRPC's message cannot be added to.
        return _json({**self.metadata(entry), **({"parameters": {"weights": entry.weights}} if entry.weights else {})})

    def metadata(self, entry: Entry) -> dict[str, Any]:
        assert entry.signature is not None
        source = entry.source
        return protocol.metadata(source.name, source.version, PLATFORMS[source.format], entry.signature)

    def _model_ready(self, request: Request) -> Response:
        entry = _entry(request)
        ready = self.is_ready and entry.failed is None
        return _json({"name": entry.source.name, "ready": ready}, 200 if ready else 503)

    def _infer(self, request: Request) -> None:
        state: State = request.state
        entry = state.route.entry
        assert entry is not None and entry.engine is not None and entry.signature is not None
        engine, signature = entry.engine, entry.signature
        asked = protocol.parse_request(request.body, signature, request.headers.get(protocol.HEADER_LENGTH))
        state.asked = asked
        ran = partial(self._ran, request, signature)
        state.cancel = self.submit(entry, engine, asked, ran, request.began, late=state.late)

    def _ran(self, request: Request, signature: Signature, result: Result) -> None:
        """The model's outputs, or why there are none."""
        if isinstance(result, Exception):
            request.answer(self._told(request, result))
            return
        source = _entry(request).source
        try:
            body, binary = protocol.answer(source.name, source.version, request.state.asked, result, signature)
        except Exception as failed:
            request.answer(self._told(request, failed))
            return
        if binary is None:
            request.answer(Response(200, body))
        else:
            header = f"Inference-Header-Content-Length: {binary}\r\n"
            request.answer(Response(200, body, header, content_type="application/octet-stream"))

    def _generate(self, request: Request) -> None:
        asked, entry, generations = self._asked_for_text(request)
        told = partial(self._told, request)
        answer = generate.Whole(request, _common(entry, asked), told, entry.metrics, self.settings.max_body_bytes)
        self._begin_text(request, asked, generations, answer)

    def _generate_stream(self, request: Request) -> None:
        asked, entry, generations = self._asked_for_text(request)
        answer = generate.Events(request, _common(entry, asked), partial(self._told, request), entry.metrics)
        self._begin_text(request, asked, generations, answer)

    def _asked_for_text(self, request: Request) -> tuple[generate.Asked, Entry, Generations]:
        entry = _entry(request)
        if entry.generations is None or not entry.generations.able:
            raise protocol.BadRequest(f"{entry.source.name!r} generates no text: ask it by /infer")
        return generate.parse(request.body), entry, entry.generations

    def _begin_text(
        self,
        request: Request,
        asked: generate.Asked,
        generations: Generations,
        answer: generate.Whole | generate.Events,
    ) -> None:
        entry = _entry(request)
        entry.used = max(entry.used, request.began)
        try:
            one = generations.submit(asked.text, asked.parameters, answer.piece, answer.end)
        except TypeError as error:
            raise protocol.BadRequest(f"the parameters cannot be read: {error}") from None
        request.on_room = partial(generations.has_room, one)
        request.state.cancel = partial(generations.cancel, one)

    # What may not.

    def allowed(self, headers: Mapping[bytes, bytes]) -> bool:
        return self.tokens is None or self.tokens.allow(headers.get(b"authorization", b""))

    @property
    def extensions(self) -> list[str]:
        return [*_EXTENSIONS, "model_repository"] if self.repository.several else _EXTENSIONS

    @property
    def is_ready(self) -> bool:
        return self.repository.ready and not self.draining

    def _refused(self, request: Request, route: Route) -> Response | None:
        if request.method not in route.methods:
            allowed = ", ".join(method.decode() for method in route.methods if method != b"HEAD")
            message = f"{request.method.decode()} is not allowed here; use {allowed}"
            return error(405, message, f"Allow: {allowed}\r\n")
        if request.crowded and not route.probe:
            return error(503, self.crowded, _SOON, close=True)
        entry = route.entry
        if entry is None:
            return None
        if not self.repository.ready:
            return error(503, LOADING, _SOON) if route.call != self._model_ready else None
        # Before the work of reading what would be turned away.
        if route.batched and route.infers and self.repository.full(entry):
            return self._told(request, QueueFull())
        return None

    def _why_not(self, path: str) -> str:
        """In words, for a path that is close to one there is."""
        parts = path.strip("/").split("/")
        if self.repository.several and parts[:3] == ["v2", "repository", "models"] and len(parts) == 5:
            return self.unknown_model(parts[3]) if parts[4] in ("load", "unload") else NO_SUCH_PATH
        rest = parts[3:]
        asked = None
        if rest[:1] == ["versions"] and len(rest) > 1:
            asked, rest = rest[1], rest[2:]
        if parts[:2] != ["v2", "models"] or len(parts) < 3 or rest not in _LAST:
            return NO_SUCH_PATH
        entry = self.repository.entries.get(parts[2])
        return self.unknown_model(parts[2]) if entry is None else self.unknown_version(entry, asked or "")

    @property
    def crowded(self) -> str:
        return f"{self.settings.max_connections} connections are open already; try again later"

    def unknown_model(self, name: str) -> str:
        names = [repr(each) for each in self.repository.entries]
        served = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
        return f"unknown model {name[:80]!r}; this server serves {served}"

    def unknown_version(self, entry: Entry, version: str) -> str:
        name, served = entry.source.name, entry.source.version
        return f"unknown version {version[:80]!r} of {name!r}; this server serves {served!r}"

    def _told(self, request: Request, failed: BaseException) -> Response:
        status, words = self.verdict(request.path, failed)
        return error(status, words, _SOON if status in (429, 503) else "")

    def verdict(self, path: str, failed: BaseException) -> tuple[int, str]:
        """HTTP's status, and words for the client."""
        if isinstance(failed, protocol.BadRequest):
            return 400, str(failed)
        if isinstance(failed, QueueFull):
            return 429, f"{self.settings.max_queue_size} requests wait already; try again later"
        if isinstance(failed, Stopped):
            return 503, GOING
        if isinstance(failed, NotLoaded):
            return 503, str(failed)
        if isinstance(failed, TimedOut):
            return 504, "the request waited for longer than its timeout"
        if isinstance(failed, generate.TooLong):
            return 500, str(failed)
        if isinstance(failed, ModelFailed):
            return 500, f"the model failed on this request: {failed}"
        self._log.error("request failed", path=path, exc_info=failed)
        return 500, "the server failed on this request; its log says why"


class MetricsEdge:
    """The other port: `/metrics`, for Prometheus."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def head(self, request: Request) -> Response | None:
        if request.path != "/metrics":
            return error(404, "no such path; there is /metrics")
        return None if request.method in _GET else error(405, "use GET", "Allow: GET\r\n")

    def call(self, request: Request) -> Response:
        # As Prometheus's own client libraries have it.
        names = parse_qs(request.target.partition(b"?")[2].decode("latin-1")).get("name[]", ())
        body, content_type = self._metrics.exposition(request.headers.get(b"accept", b"").decode("latin-1"), names)
        return Response(200, body, content_type=content_type)

    def done(self, request: Request, status: int, error: str) -> None:
        """Nobody counts those who count."""


def _entry(request: Request) -> Entry:
    entry: Entry | None = request.state.route.entry
    assert entry is not None
    return entry


def _common(entry: Entry, asked: generate.Asked) -> dict[str, Any]:
    """What each answer of a text begins with."""
    source = entry.source
    return {
        **({"id": asked.id} if asked.id else {}), "model_name": source.name, "model_version": source.version,
    }  # fmt: skip


def _json(content: dict[str, Any], status: int = 200) -> Response:
    return Response(status, orjson.dumps(content))
