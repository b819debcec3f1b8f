"""Runs real launchers as the operator's pods do: one process for each worker, gloo over the loopback."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.ports import unused

PACKAGES = Path(__file__).parents[3] / "images" / "torch"


@dataclass
class Ended:
    code: int
    output: str
    log: dict[str, Any]


class Workers:
    """The workers of one job. Everything they write is below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.status_port, self._rendezvous = unused(2)
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, count: int, *command: str, present: range | None = None, **env: str) -> "Workers":
        for index in present or range(count):
            (self.folder / f"tmp{index}").mkdir()
            settings = {
                "PYTHONPATH": str(PACKAGES),
                "TMPDIR": str(self.folder / f"tmp{index}"),
                "OMP_NUM_THREADS": "1",
                "GLOO_SOCKET_IFNAME": "lo",
                "PYTHONUNBUFFERED": "1",
                "PET_NNODES": str(count),
                "PET_NPROC_PER_NODE": "1",
                "PET_RDZV_BACKEND": "c10d",
                "PET_RDZV_ENDPOINT": f"127.0.0.1:{self._rendezvous}",
                "PET_RDZV_ID": "test",
                "PET_MAX_RESTARTS": "0",
                "PET_LOCAL_ADDR": f"127.0.0.{index + 1}",
                "JOB_COMPLETION_INDEX": str(index),
                "MOORAGE_JOB": "test",
                "MOORAGE_STATUS_PORT": str(self.status_port),
                "MOORAGE_TERMINATION_LOG": str(self.folder / f"log{index}"),
                **env,
            }
            argv = [sys.executable, "-m", "moorage_trainer.launch", *(["--", *command] if command else [])]
            with (self.folder / f"output{index}").open("wb") as output:
                process = subprocess.Popen(argv, env={**os.environ, **settings}, stdout=output, stderr=output)
            self.processes.append(process)
        return self

    def wait(self, seconds: float = 240) -> list[Ended]:
        return [self._ended(index, process.wait(seconds)) for index, process in enumerate(self.processes)]

    def output(self, index: int) -> str:
        return (self.folder / f"output{index}").read_text(errors="replace")

    def kill(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()

    def _ended(self, index: int, code: int) -> Ended:
        log = self.folder / f"log{index}"
        return Ended(code, self.output(index), json.loads(log.read_text()) if log.exists() else {})


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    workers = Workers(tmp_path)
    yield workers
    workers.kill()


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str], list[str]]:
    """A script of the user's, as a command."""

    def write(text: str) -> list[str]:
        path = tmp_path / "train.py"
        path.write_text(text)
        return [sys.executable, str(path)]

    return write


@pytest.fixture
def blobs(tmp_path: Path) -> Path:
    """A small set of three well separated classes."""
    random = np.random.default_rng(0)
    y = random.integers(0, 3, 300)
    np.savez(tmp_path / "blobs.npz", x=(random.normal(size=(300, 4)) + 4 * y[:, None]).astype(np.float32), y=y)
    return tmp_path / "blobs.npz"


def recipe(data: Path, **changes: Any) -> dict[str, str]:
    body = {"task": "Classification", "target": "y", "epochs": 3, "batchSize": 32, **changes}
    uri = f"configmap://data/{data.name}"
    return {"MOORAGE_RECIPE": json.dumps(body), "MOORAGE_DATA_URI": uri, "MOORAGE_DATA_PATH": str(data)}


def output(target: Path) -> dict[str, str]:
    return {"MOORAGE_OUTPUT_URI": "pvc://models/digits/1", "MOORAGE_OUTPUT_MOUNT": str(target)}
