"""A real HTTP server that can do what servers do to downloads, and a real S3 server."""

import http.server
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cluster import binaries
from cluster.fixtures import seen
from cluster.interface import ClusterError
from cluster.ports import unused
from cluster.progress import Progress
from moorage_store import remote


@dataclass
class Site:
    """What the server answers; tests change it while it runs."""

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    etags: bool = True
    cut_after: int | None = None  # bytes of body after which the connection is closed
    cuts_left: int = 10**9
    status: int | None = None
    redirects: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    port: int = 0

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    @property
    def ranges_asked(self) -> list[str | None]:
        return [headers.get("range") for _, headers in self.requests]


def _handler(site: Site) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            site.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            body = site.files.get(self.path)
            if target := site.redirects.get(self.path):
                self.send_response(302)
                self.send_header("Location", target)
                return self.finish_with(b"")
            if site.status or body is None:
                self.send_response(site.status or 404)
                return self.finish_with(b"no")
            start = 0
            if site.ranges and (asked := self.headers.get("Range")):
                start = int(asked.removeprefix("bytes=").split("-")[0])
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            else:
                self.send_response(200)
            if site.etags:
                self.send_header("ETag", f'"{hash(body):x}"')
            return self.finish_with(body[start:])

        def finish_with(self, body: bytes) -> None:
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if site.cut_after is not None and site.cuts_left and len(body) > site.cut_after:
                site.cuts_left -= 1
                self.wfile.write(body[: site.cut_after])
                self.wfile.flush()
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    return Handler


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(site)) as server:
        server.daemon_threads = True
        site.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield site
        server.shutdown()
        thread.join()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """One repetition instead of six: for tests in which none of them would help."""
    monkeypatch.setitem(remote.RETRY, "max_retries", 1)


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Path]:
    """versitygw over a folder; yields that folder, in which each bucket is a folder. Built at the first use."""
    try:
        with seen(pytestconfig):
            program = binaries.ensure(["s3"], Progress()).path("versitygw")
    except ClusterError as error:
        pytest.skip(f"no S3 server: {str(error).splitlines()[0]}")
    root = tmp_path_factory.mktemp("s3")
    (root / "models").mkdir()
    [port] = unused(1)
    keys = {"AWS_ACCESS_KEY_ID": "access", "AWS_SECRET_ACCESS_KEY": "secret"}
    settings = {**keys, "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    log = root.with_name("s3.log").open("wb")
    argv = [program, "--access", "access", "--secret", "secret", "--port", f"127.0.0.1:{port}", "posix", str(root)]
    server = subprocess.Popen(argv, stdout=log, stderr=log, cwd=root)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in settings.items():
            patch.setenv(name, value)
        try:
            _wait_for(port)
            yield root
        finally:
            server.terminate()
            server.wait(10)
            log.close()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(f"nothing listens on port {port}")
