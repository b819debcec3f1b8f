"""The real tritonserver with its python backend, out of the nvidia-pytriton wheel, started on the loopback."""

import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cluster import cache, pypi
from cluster.interface import ClusterError
from cluster.progress import Progress
from moorage_store import triton_repository


@dataclass
class Triton:
    """One server. `ports` are http, grpc and metrics."""

    process: subprocess.Popen[bytes]
    log: Path
    ports: list[int] = field(default_factory=list)

    @property
    def http(self) -> str:
        return f"127.0.0.1:{self.ports[0]}"

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.ports[1]}"

    @property
    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[2]}/metrics", timeout=10) as answer:
            text: str = answer.read().decode()
            return text

    def words(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_until_ready(self, seconds: float = 180) -> "Triton":
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.words()
            try:
                with urllib.request.urlopen(f"http://{self.http}/v2/health/ready", timeout=5) as answer:
                    if answer.status == 200:
                        return self
            except OSError:
                time.sleep(0.1)
        raise TimeoutError(self.words())

    def wait_until_ended(self, seconds: float = 180) -> int:
        return self.process.wait(seconds)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


@pytest.fixture(scope="session")
def server_folder() -> Path:
    """tritonserver laid out as its image has it, for the Python of these tests."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    try:
        wheel = pypi.installed("nvidia-pytriton", "0.7.0", Progress())
    except ClusterError as error:
        pytest.skip(f"no tritonserver: {str(error).splitlines()[0]}")

    def make(folder: Path) -> None:
        for name in ("bin", "backends", "caches"):
            shutil.copytree(wheel / "pytriton" / "tritonserver" / name, folder / name, symlinks=True)
        stub = wheel / "pytriton" / "tritonserver" / "python_backend_stubs" / version / "triton_python_backend_stub"
        shutil.copy(stub, folder / "backends" / "python")
        (folder / "libs").symlink_to(wheel / "nvidia_pytriton.libs")

    return cache.publish("triton", f"pytriton-0.7.0-python-{version}", make, Progress())


@pytest.fixture
def triton(server_folder: Path, tmp_path: Path) -> Iterator[Callable[..., Triton]]:
    """Starts a server for a model, laid out by our own `triton-repository`."""
    started: list[Triton] = []

    def start(
        model: Path,
        config: str = "",
        name: str = "digits",
        form: str = "TorchExport",
        repository: Path | None = None,
        arguments: tuple[str, ...] = (),
        **env: str,
    ) -> Triton:
        folder = tmp_path / f"triton-{len(started)}"
        (folder / "config").mkdir(parents=True)
        (folder / "config" / "config.pbtxt").write_text(config or CONFIG)
        if repository is None:
            repository = folder / "models"
            triton_repository.lay_out(folder / "config", repository, name, "1")
        libraries = [str(server_folder / "libs"), str(sysconfig.get_config_var("LIBDIR"))]
        settings = {
            **os.environ,
            "LD_LIBRARY_PATH": ":".join(libraries),
            # The stub takes site-packages from the first python3 on PATH.
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "MOORAGE_MODEL_PATH": str(model),
            "MOORAGE_MODEL_FORMAT": form,
            "OMP_NUM_THREADS": "1",
            **env,
        }
        ports = free_ports(3)
        argv = [
            str(server_folder / "bin" / "tritonserver"),
            f"--model-repository={repository}",
            f"--backend-directory={server_folder / 'backends'}",
            *(f"--{kind}-address=127.0.0.1" for kind in ("http", "grpc", "metrics")),
            *(f"--{kind}-port={port}" for kind, port in zip(("http", "grpc", "metrics"), ports, strict=True)),
            # As the operator has it, so that the last words are those of the fault.
            "--log-info=false",
            "--allow-gpu-metrics=false",
            # Its first warning about missing pinned memory is long; nothing here uses it.
            "--pinned-memory-pool-byte-size=0",
            "--exit-timeout-secs=5",
            *arguments,
        ]
        log = folder / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(argv, env=settings, stdout=output, stderr=output, cwd=folder)
        started.append(Triton(process, log, ports))
        return started[-1]

    yield start
    for server in started:
        server.stop()


# As the operator writes it (golden tests hold that side).
CONFIG = """\
name: "digits"
backend: "python"
max_batch_size: 64
dynamic_batching {
  max_queue_delay_microseconds: 0
}
instance_group {
  count: 1
  kind: KIND_CPU
}
"""


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
