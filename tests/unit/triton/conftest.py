"""The real tritonserver (`support.triton`), started on the loopback."""

import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cluster.interface import ClusterError
from cluster.ports import unused
from cluster.progress import Progress
from moorage_store import triton_repository
from support import triton as files


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
    try:
        return files.installed(Progress())
    except ClusterError as error:
        pytest.skip(f"no tritonserver: {str(error).splitlines()[0]}")


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
        (folder / "config" / "config.pbtxt").write_text(config or files.CONFIG)
        if repository is None:
            repository = folder / "models"
            triton_repository.lay_out(folder / "config", repository, name, "1")
        settings = {**files.environment(server_folder, model, form), **env}
        ports = unused(3)
        argv = [*files.argv(server_folder, repository, ports), *arguments]
        log = folder / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(argv, env=settings, stdout=output, stderr=output, cwd=folder)
        started.append(Triton(process, log, ports))
        return started[-1]

    yield start
    for server in started:
        server.stop()
