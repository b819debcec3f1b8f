"""A Prometheus that says what a test wants: enough of its HTTP API for the scaling loop to ask."""

import json
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakePrometheus:
    """`load[(namespace, name)]` is the concurrency now, `peaks` the highest of the window (default: the same)."""

    def __init__(self) -> None:
        self.load: dict[tuple[str, str], float] = {}
        self.peaks: dict[tuple[str, str], float] = {}
        self.asked = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                query = urllib.parse.parse_qs(self.rfile.read(length).decode())["query"][0]
                outer.asked += 1
                body = json.dumps(
                    {"status": "success", "data": {"resultType": "vector", "result": outer._answer(query)}}
                )
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "FakePrometheus":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._thread.is_alive():
            return
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def _answer(self, query: str) -> list[dict[str, Any]]:
        values: dict[tuple[str, str], float] = dict(self.load)
        if query.startswith("max_over_time"):
            values |= self.peaks
        elif query.startswith(("count_over_time", "count by")):
            values = dict.fromkeys(self.load, 1000.0)  # all samples there, all pods measured
        return [
            {"metric": {"namespace": ns, "moorage_dev_model_deployment": name}, "value": [0, str(value)]}
            for (ns, name), value in values.items()
        ]
