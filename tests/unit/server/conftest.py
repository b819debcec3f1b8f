"""Real models, and the real server in a process of its own on loopback."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from torch import Tensor, nn

ROOT = Path(__file__).parents[3]
FEATURES, CLASSES = 8, 3


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, CLASSES))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        probabilities = self.layers(x).softmax(-1)
        return {"probabilities": probabilities, "label": probabilities.argmax(-1)}


class Slow(nn.Module):
    """About a tenth of a second for a forward pass, whatever the rows; answers what it was asked."""

    def __init__(self, products: int = 20) -> None:
        super().__init__()
        self.products = products
        self.weight = nn.Parameter(torch.rand(700, 700) / 700)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        for _ in range(self.products):
            weight = weight @ self.weight
        return x + weight.sum() * 0


class Lookup(nn.Module):
    """Fails on a row with an id that it does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.table(ids)


def export(model: nn.Module, example: tuple[Tensor, ...], folder: Path, dynamic: Any = "batch") -> Path:
    """A folder with model.pt2, batch dynamic unless said otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    if dynamic == "batch":
        batch = torch.export.Dim("batch")
        dynamic = tuple({0: batch} for _ in example)
    program = torch.export.export(model.eval(), example, dynamic_shapes=dynamic)
    torch.export.save(program, folder / "model.pt2")
    return folder


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(Classifier(), (torch.randn(4, FEATURES),), tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="session")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(Slow(), (torch.randn(4, 2),), tmp_path_factory.mktemp("slow"))


@pytest.fixture(scope="session")
def lookup(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(Lookup(), (torch.zeros(4, 2, dtype=torch.int64),), tmp_path_factory.mktemp("lookup"))


@dataclass
class Server:
    process: subprocess.Popen[bytes]
    log_file: Path
    termination_file: Path
    name: str = "digits"
    ports: dict[str, int] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['http']}"

    @property
    def infer_path(self) -> str:
        return f"/v2/models/{self.name}/infer"

    @property
    def log(self) -> list[dict[str, Any]]:
        lines = self.log_file.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    @property
    def termination(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self.termination_file.read_text())
        return message

    def wait_for(self, event: str, seconds: float = 200) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for line in self.log:
                if line.get("event") == event:
                    return line
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"no {event!r} in the log:\n{self.log_file.read_text()}")

    def metrics(self) -> dict[str, float]:
        """Samples by name and labels, as Prometheus would see them."""
        text = httpx.get(f"http://127.0.0.1:{self.ports['metrics']}/metrics", timeout=10).text
        samples = re.findall(r"^([^#\s]\S*) (\S+)$", text, re.MULTILINE)
        return {name: float(value) for name, value in samples}

    def terminate(self, seconds: float = 200) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


Start = Callable[..., Server]


@pytest.fixture(scope="session")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts a server with a model and environment; waits until it is ready unless told not to."""
    servers: list[Server] = []

    def start(model: Path, ready: bool = True, **env: str) -> Server:
        folder = tmp_path_factory.mktemp("server")
        server = Server(None, folder / "log", folder / "termination")  # type: ignore[arg-type]
        inherited = {k: v for k, v in os.environ.items() if k not in ("PYTHONDONTWRITEBYTECODE", "OMP_NUM_THREADS")}
        with server.log_file.open("wb") as log:
            server.process = subprocess.Popen(
                [sys.executable, "-m", "moorage_server"],
                env=inherited
                | {
                    "PYTHONPATH": str(ROOT / "images" / "torch"),
                    "MOORAGE_MODEL_PATH": str(model),
                    "MOORAGE_MODEL_NAME": server.name,
                    "MOORAGE_HTTP_PORT": "0",
                    "MOORAGE_METRICS_PORT": "0",
                    "MOORAGE_TERMINATION_LOG": str(server.termination_file),
                }
                | env,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        servers.append(server)
        if ready:
            server.ports = server.wait_for("listening")
            server.wait_for("ready", 200)
        return server

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait(10)


@pytest.fixture(scope="session")
def server(start_server: Start, classifier: Path) -> Server:
    """One server of the classifier, shared by the tests that leave it as it was. On one thread: where others are busy
    on the same cores, a second makes it find that batches do not pay."""
    alone = {"OMP_NUM_THREADS": "1"}
    return start_server(classifier, MOORAGE_MAX_BODY_BYTES="100000", MOORAGE_LOG_LEVEL="debug", **alone)


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


def fp32(rows: list[list[float]], name: str = "x") -> dict[str, Any]:
    return {"name": name, "datatype": "FP32", "shape": [len(rows), len(rows[0])], "data": rows}
