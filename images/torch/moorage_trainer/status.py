"""How far the training is, for the operator: `GET /progress` and `/healthz`, served by the first worker's launcher."""

import json
import math
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from moorage_trainer import report


class Progress:
    """Adds to what the program writes what follows from it: percent and the time to go."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._first: tuple[float, int] | None = None

    def now(self) -> dict[str, Any]:
        body = report.read(self._run_dir, report.PROGRESS)
        step, total = body.get("step"), body.get("totalSteps")
        if not isinstance(step, int):
            return body
        now = time.monotonic()
        if self._first is None or step < self._first[1]:
            self._first = (now, step)
        if isinstance(total, int) and total > 0:
            body["percent"] = min(100, 100 * step // total)
            began, first = self._first
            if step >= total:
                body["etaSeconds"] = 0
            elif step > first:
                body["etaSeconds"] = math.ceil((now - began) / (step - first) * (total - step))
        return body


def _finite(value: Any) -> Any:
    """JSON has neither NaN nor infinity; a loss that is one is told as null."""
    if isinstance(value, dict):
        return {key: _finite(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_finite(child) for child in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def serve(run_dir: Path, port: int) -> ThreadingHTTPServer:
    """Begins to serve, in threads that end with the process."""
    progress = Progress(run_dir)

    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            if path == "/progress":
                self._answer(200, progress.now())
            elif path == "/healthz":
                self._answer(200, {"status": "ok"})
            else:
                self._answer(404, {"error": "there are /progress and /healthz"})

        def _answer(self, status: int, body: dict[str, Any]) -> None:
            data = json.dumps(_finite(body)).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            """The operator asks every few seconds; the pod's log is for the training."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that hangs up before its answer is nobody's trouble, least of all the training's."""

    server = Server(("", port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
