"""The HTTP edge: paths, status codes, headers and limits of the protocol, over aiohttp.

Thin: it reads a body, has `protocol` parse it and `engine` run it, and puts what comes back (or went wrong) into an
answer. No other module knows HTTP.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import orjson
import structlog
from aiohttp import web

from . import __version__, protocol
from .bodies import Bodies, NoRoom, TooLarge, TooSlow
from .connection import Connection
from .engine import Engine, ModelFailed, QueueFull, Stopped
from .logs import AccessLog
from .metrics import Metrics
from .settings import Settings
from .signature import Signature

PLATFORMS = {"TorchExport": "pytorch_torchexport", "TorchScript": "pytorch_torchscript"}
NO_SUCH_PATH = "no such path; there are /v2/health/{live,ready}, /v2 and /v2/models/NAME[/versions/V][/ready|/infer]"
# The usual number, from nginx, for a client that did not wait; it is only counted and logged, never sent.
CLIENT_GONE = 499


@dataclass(frozen=True)
class Serving:
    """A model that can be asked."""

    signature: Signature
    engine: Engine


class Edge:
    """The protocol's paths. `serving` is None while the model loads; `draining` is set once the server is to go."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.serving: Serving | None = None
        self.draining = False
        self.last_request = 0.0  # of inference, by time.monotonic(); probes are not what a drain waits for
        self._settings = settings
        self._metrics = metrics
        self._log: Any = structlog.get_logger()
        self._access = AccessLog(settings.log_level)
        self._bodies = Bodies(settings.max_body_bytes, settings.max_total_body_bytes, settings.body_timeout_seconds)

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._around])
        app.router.add_get("/v2/health/live", self._live)
        app.router.add_get("/v2/health/ready", self._ready)
        app.router.add_get("/v2", self._server)
        for model in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            app.router.add_get(model, self._model)
            app.router.add_get(f"{model}/ready", self._model_ready)
            app.router.add_post(f"{model}/infer", self._infer)
        return app

    async def _live(self, _request: web.Request) -> web.Response:
        return _json({"live": True})

    async def _ready(self, _request: web.Request) -> web.Response:
        ready = self.serving is not None and not self.draining
        return _json({"ready": ready}, 200 if ready else 503)

    async def _server(self, _request: web.Request) -> web.Response:
        return _json({"name": "moorage", "version": __version__, "extensions": []})

    async def _model(self, request: web.Request) -> web.Response:
        self._check_name(request)
        serving = self._loaded()
        platform = PLATFORMS[self._settings.model_format]
        name, version = self._settings.model_name, self._settings.model_version
        return _json(protocol.metadata(name, version, platform, serving.signature))

    async def _model_ready(self, request: web.Request) -> web.Response:
        self._check_name(request)
        ready = self.serving is not None and not self.draining
        return _json({"name": self._settings.model_name, "ready": ready}, 200 if ready else 503)

    async def _infer(self, request: web.Request) -> web.Response:
        self._check_name(request)
        serving = self._loaded()
        if serving.engine.full:  # before the work of parsing what would be turned away
            raise QueueFull
        async with self._bodies.read(request) as body:
            if "Inference-Header-Content-Length" in request.headers:
                raise protocol.BadRequest("binary tensor data is not supported by this server; send JSON data")
            asked = protocol.parse_request(body, serving.signature)
            request["rows"] = asked.rows
            outputs = await serving.engine.infer(asked.inputs, asked.rows)
            name, version = self._settings.model_name, self._settings.model_version
            return _answer(protocol.answer(name, version, asked, outputs, serving.signature))

    def _check_name(self, request: web.Request) -> None:
        name, version = self._settings.model_name, self._settings.model_version
        if (asked := request.match_info["model"]) != name:
            raise web.HTTPNotFound(text=f"unknown model {asked[:80]!r}; this server serves {name!r}")
        if (asked := request.match_info.get("version", version)) != version:
            raise web.HTTPNotFound(text=f"unknown version {asked[:80]!r} of {name!r}; this server serves {version!r}")

    def _loaded(self) -> Serving:
        if self.serving is None:
            raise web.HTTPServiceUnavailable(text="the model is still loading", headers={"Retry-After": "1"})
        return self.serving

    @web.middleware
    async def _around(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """What every request gets: its errors as JSON, its line in the log, and its count if it is an inference."""
        start = time.perf_counter()
        if isinstance(connection := request.protocol, Connection):
            connection.head_came(request)
        if not request.path.endswith("/infer"):
            response = await self._errors_as_json(request, handler)
            self._finish(request, response, start, probe=request.path.startswith("/v2/health/"))
            return response
        self.last_request = time.monotonic()
        with self._metrics.in_flight.one():
            try:
                response = await self._errors_as_json(request, handler)
                if self.draining:
                    _closing(response)
                # Sent here, not by aiohttp after this function: a request is in flight until its answer is out.
                await response.prepare(request)
                await response.write_eof()
            except (asyncio.CancelledError, ConnectionError):
                self._metrics.answered(CLIENT_GONE, time.perf_counter() - start)
                self._access.write(CLIENT_GONE, request.method, request.path, time.perf_counter() - start)
                raise
            self._metrics.answered(response.status, time.perf_counter() - start)
        self._finish(request, response, start)
        self.last_request = time.monotonic()
        return response

    async def _errors_as_json(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            return await handler(request)
        except protocol.BadRequest as error:
            return _error(400, str(error))
        except QueueFull:
            message = f"{self._settings.max_queue_size} requests wait already; try again later"
            return _error(429, message, {"Retry-After": "1"})
        except Stopped:
            return _error(503, "the server is going away; ask another replica", {"Retry-After": "1"})
        except ModelFailed as error:
            return _error(500, f"the model failed on this request: {error}")
        # Of these the rest of the body is not read, so the connection is of no more use.
        except TooLarge:
            return _closing(_error(413, f"the body is larger than {self._settings.max_body_bytes} bytes"))
        except TooSlow:
            seconds = self._settings.body_timeout_seconds
            return _closing(_error(408, f"the body did not come within {seconds} seconds"))
        except NoRoom:
            message = f"requests hold {self._bodies.total} bytes already; try again later"
            return _closing(_error(429, message, {"Retry-After": "1"}))
        except web.HTTPMethodNotAllowed as error:
            allowed = ", ".join(sorted(error.allowed_methods))
            return _error(405, f"{request.method} is not allowed here; use {allowed}", {"Allow": allowed})
        except web.HTTPNotFound as error:
            return _error(404, NO_SUCH_PATH if error.text == "404: Not Found" else str(error.text))
        except web.HTTPException as error:
            retry = {"Retry-After": error.headers["Retry-After"]} if "Retry-After" in error.headers else {}
            return _error(error.status, str(error.text), retry)
        except web.RequestPayloadError as error:
            return _closing(_error(400, f"the body cannot be read: {error}"))
        except ConnectionError:
            raise
        except Exception:
            self._log.exception("request failed", path=request.path)
            return _error(500, "the server failed on this request; its log says why")

    def _finish(self, request: web.Request, response: web.StreamResponse, start: float, probe: bool = False) -> None:
        if self.draining:
            _closing(response)
        if probe and self._settings.log_level != "debug":
            return
        more = {key: value for key in ("rows", "error") if (value := request.get(key) or response.get(key))}
        if request_id := request.headers.get("x-request-id"):
            more["request_id"] = request_id[:100]
        size = request.content_length or 0
        self._access.write(
            response.status, request.method, request.path, time.perf_counter() - start, bytes=size, **more
        )


def metrics_application(metrics: Metrics) -> web.Application:
    async def scrape(request: web.Request) -> web.Response:
        body, content_type = metrics.exposition(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    app = web.Application()
    app.router.add_get("/metrics", scrape)
    return app


def _answer(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    # aiohttp would name itself, Python and their versions.
    headers = {"Server": "moorage"} | (headers or {})
    return web.Response(body=body, status=status, headers=headers, content_type="application/json")


def _json(content: dict[str, Any], status: int = 200) -> web.Response:
    return _answer(orjson.dumps(content), status)


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    response = _answer(orjson.dumps({"error": message}), status, headers)
    response["error"] = message[:300]
    return response


def _closing(response: web.Response | web.StreamResponse) -> web.Response:
    response.force_close()
    return response  # type: ignore[return-value]
