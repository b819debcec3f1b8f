"""The Open Inference Protocol's paths: which there are, what each answers, and what an error is called in HTTP.

Thin: `http1` brings whole `messages`, `protocol` parses them, `engine` runs them; here they meet. Every request leaves
a count, a time and a line in the log.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson
import structlog

from . import __version__, protocol
from .engine import Engine, Job, ModelFailed, QueueFull, Result, Stopped, TimedOut
from .logs import AccessLog
from .messages import CLIENT_GONE, Request, Response, error
from .metrics import Metrics
from .security import Tokens
from .settings import Settings
from .signature import Signature

PLATFORMS = {"TorchExport": "pytorch_torchexport", "TorchScript": "pytorch_torchscript"}
EXTENSIONS = ["binary_tensor_data", "schedule_policy"]
NO_SUCH_PATH = (
    "no such path; there are /v2/health/{live,ready}, /v2, /v2/models/NAME[/versions/V][/ready|/infer] and "
    "/v2/repository/index"
)
UNKNOWN = "a bearer token is needed that this server knows: send Authorization: Bearer TOKEN"
LOADING = "the model is still loading"
GOING = "the server is going away; ask another replica"
_CHALLENGE = "WWW-Authenticate: Bearer\r\n"
_SOON = "Retry-After: 1\r\n"
_GET, _POST = (b"GET", b"HEAD"), (b"POST",)


@dataclass(frozen=True, slots=True)
class Serving:
    """A model that can be asked."""

    signature: Signature
    engine: Engine


@dataclass(frozen=True, slots=True)
class Route:
    methods: tuple[bytes, ...]
    call: Callable[[Request], Response | None]
    infers: bool = False
    probe: bool = False


class State:
    """What the edge knows of a request on its way."""

    __slots__ = ("asked", "job", "route")

    def __init__(self, route: Route) -> None:
        self.route = route
        self.asked: protocol.InferRequest | None = None
        self.job: Job | None = None


@dataclass(slots=True)
class Edge:
    """Where there are `tokens`, all but probes need one. `serving` is None while the model loads; `draining` is set
    once the server is to go."""

    settings: Settings
    metrics: Metrics
    tokens: Tokens | None = None
    serving: Serving | None = None
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
        model = f"/v2/models/{self.settings.model_name}".encode()
        for path in (model, model + f"/versions/{self.settings.model_version}".encode()):
            self._routes[path] = Route(_GET, self._model)
            self._routes[path + b"/ready"] = Route(_GET, self._model_ready)
            self._routes[path + b"/infer"] = Route(_POST, self._infer, infers=True)

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
        try:
            response: Response | None = request.state.route.call(request)
            return response
        except Exception as failed:
            return self._told(request, failed)

    def done(self, request: Request, status: int, said: str) -> None:
        state: State | None = request.state
        now = time.perf_counter()
        began = request.began or now
        asked = None
        if state is not None:
            asked = state.asked
            if state.route.infers:
                if status == CLIENT_GONE and state.job is not None and self.serving is not None:
                    self.serving.engine.cancel(state.job)
                state.job = None  # it knows this request: arrays must not wait for the garbage collector
                self.end(began, status, now)
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

    def end(self, began: float, status: int, now: float) -> None:
        self.metrics.in_flight.end(began, now - began)
        self.metrics.answered(status, now - began)
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
        return _json({"name": "moorage", "version": __version__, "extensions": EXTENSIONS})

    def _index(self, request: Request) -> Response:
        return Response(200, orjson.dumps(self.index(only_ready=protocol.wants_only_ready(request.body))))

    def index(self, *, only_ready: bool) -> list[dict[str, str]]:
        """Of Triton's model repository extension the part that reads."""
        if only_ready and not self.is_ready:
            return []
        state, reason = ("READY", "") if self.is_ready else ("UNAVAILABLE", "it is loading or the server is going")
        name, version = self.settings.model_name, self.settings.model_version
        return [{"name": name, "version": version, "state": state, "reason": reason}]

    def _model(self, _request: Request) -> Response:
        return _json(self.metadata())

    def metadata(self) -> dict[str, Any]:
        assert self.serving is not None
        platform = PLATFORMS[self.settings.model_format]
        name, version = self.settings.model_name, self.settings.model_version
        return protocol.metadata(name, version, platform, self.serving.signature)

    def _model_ready(self, _request: Request) -> Response:
        ready = self.is_ready
        return _json({"name": self.settings.model_name, "ready": ready}, 200 if ready else 503)

    def _infer(self, request: Request) -> None:
        assert self.serving is not None
        header = request.headers.get(protocol.HEADER_LENGTH)
        asked = protocol.parse_request(request.body, self.serving.signature, header)
        state: State = request.state
        state.asked = asked
        state.job = self.serving.engine.submit(
            asked.inputs, asked.rows, partial(self._ran, request), asked.priority, asked.timeout
        )

    def _ran(self, request: Request, result: Result) -> None:
        """The model's outputs, or why there are none."""
        if isinstance(result, Exception):
            request.answer(self._told(request, result))
            return
        assert self.serving is not None
        name, version = self.settings.model_name, self.settings.model_version
        try:
            body, binary = protocol.answer(name, version, request.state.asked, result, self.serving.signature)
        except Exception as failed:
            request.answer(self._told(request, failed))
            return
        if binary is None:
            request.answer(Response(200, body))
        else:
            header = f"Inference-Header-Content-Length: {binary}\r\n"
            request.answer(Response(200, body, header, content_type="application/octet-stream"))

    # What may not.

    def allowed(self, headers: Mapping[bytes, bytes]) -> bool:
        return self.tokens is None or self.tokens.allow(headers.get(b"authorization", b""))

    @property
    def is_ready(self) -> bool:
        return self.serving is not None and not self.draining

    def _refused(self, request: Request, route: Route) -> Response | None:
        if request.method not in route.methods:
            allowed = ", ".join(method.decode() for method in route.methods if method != b"HEAD")
            message = f"{request.method.decode()} is not allowed here; use {allowed}"
            return error(405, message, f"Allow: {allowed}\r\n")
        if request.crowded and not route.probe:
            return error(503, self.crowded, _SOON, close=True)
        if self.serving is None:
            loading = route.infers or route.call == self._model
            return error(503, LOADING, _SOON) if loading else None
        if route.infers and self.serving.engine.full:  # before the work of reading what would be turned away
            return self._told(request, QueueFull())
        return None

    def _why_not(self, path: str) -> str:
        """In words, for a path that is close to one there is."""
        parts = path.strip("/").split("/")
        name, rest = self.settings.model_name, parts[3:]
        asked = None
        if rest[:1] == ["versions"] and len(rest) > 1:
            asked, rest = rest[1], rest[2:]
        if parts[:2] != ["v2", "models"] or len(parts) < 3 or rest not in ([], ["ready"], ["infer"]):
            return NO_SUCH_PATH
        return self.unknown_model(parts[2]) if parts[2] != name else self.unknown_version(asked or "")

    @property
    def crowded(self) -> str:
        return f"{self.settings.max_connections} connections are open already; try again later"

    def unknown_model(self, name: str) -> str:
        return f"unknown model {name[:80]!r}; this server serves {self.settings.model_name!r}"

    def unknown_version(self, version: str) -> str:
        name, served = self.settings.model_name, self.settings.model_version
        return f"unknown version {version[:80]!r} of {name!r}; this server serves {served!r}"

    def _told(self, request: Request, failed: Exception) -> Response:
        status, words = self.verdict(request.path, failed)
        return error(status, words, _SOON if status in (429, 503) else "")

    def verdict(self, path: str, failed: Exception) -> tuple[int, str]:
        """HTTP's status, and words for the client."""
        if isinstance(failed, protocol.BadRequest):
            return 400, str(failed)
        if isinstance(failed, QueueFull):
            return 429, f"{self.settings.max_queue_size} requests wait already; try again later"
        if isinstance(failed, Stopped):
            return 503, GOING
        if isinstance(failed, TimedOut):
            return 504, "the request waited for longer than its timeout"
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
        body, content_type = self._metrics.exposition(request.headers.get(b"accept", b"").decode("latin-1"))
        return Response(200, body, content_type=content_type)

    def done(self, request: Request, status: int, error: str) -> None:
        """Nobody counts those who count."""


def _json(content: dict[str, Any], status: int = 200) -> Response:
    return Response(status, orjson.dumps(content))
