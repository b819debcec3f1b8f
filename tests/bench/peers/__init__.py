"""Other model servers, each as its own guide has it, with batching where it makes it faster, without a line of log for
each request, from its package at a pinned version. Triton runs as the operator runs it.

They share the Python and the torch of the project; all else of them stands in a folder of its own in the cache.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from bench import usage, wrk
from bench.models import Case
from cluster import cache, pypi
from cluster.interface import ClusterError
from cluster.names import CHECKOUT
from cluster.packages import Package, require
from cluster.ports import unused
from cluster.progress import Progress
from moorage_store import triton_repository
from support import triton

SERVERS = Path(__file__).parent / "servers"
READY_SECONDS = 120.0

Request = tuple[bytes, dict[str, str]]
JSON = {"Content-Type": "application/json"}


def plain(case: Case) -> Request:
    return orjson.dumps({"x": case.example(1).numpy()}, option=orjson.OPT_SERIALIZE_NUMPY), JSON


def plain_or_bytes(case: Case) -> Request:
    """What is large goes as it lies in memory."""
    if case.large:
        return case.example(1).numpy().tobytes(), {"Content-Type": "application/octet-stream"}
    return plain(case)


def open_inference(case: Case) -> Request:
    return case.request(binary=False)


def open_inference_or_binary(case: Case) -> Request:
    return case.request(binary=case.large)


@dataclass(frozen=True)
class Place:
    """Where one of them runs: a folder of its own for what it needs, its port, the models that are there for it."""

    folder: Path
    ports: list[int]
    """Three; the first is that of inference."""
    exported: Path
    frozen: Path


@dataclass(frozen=True)
class Peer:
    name: str
    packages: tuple[str, ...]
    """Into a folder of its own."""
    path: str
    """Of its inference, on its port."""
    argv: Callable[[Place], list[str]]
    request: Callable[[Case], Request] = plain
    env: Callable[[Place], Mapping[str, str]] = lambda _place: {}


def script(name: str) -> Callable[[Place], list[str]]:
    return lambda _place: [sys.executable, str(SERVERS / name)]


def mlserver(place: Place) -> list[str]:
    http, grpc, metrics = place.ports
    settings = {"http_port": http, "grpc_port": grpc, "metrics_port": metrics, "parallel_workers": 0}
    (place.folder / "settings.json").write_text(json.dumps({**settings, "host": "127.0.0.1", "debug": False}))
    model = {"name": "m", "implementation": "mlserver_model.Served", "max_batch_size": 64, "max_batch_time": 0.002}
    (place.folder / "model-settings.json").write_text(json.dumps(model))
    return [sys.executable, "-m", "mlserver.cli.main", "start", str(place.folder)]


def torchserve(place: Place) -> list[str]:
    manifest = {
        "runtime": "python",
        "model": {"modelName": "m", "handler": "torchserve_handler.py", "modelVersion": "1.0"},
        "archiverVersion": "0.12.0",
    }
    with zipfile.ZipFile(place.folder / "m.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        archive.write(SERVERS / "torchserve_handler.py", "torchserve_handler.py")
    one = {"defaultVersion": True, "marName": "m.mar", "minWorkers": 1, "maxWorkers": 1, "batchSize": 64}
    version = {"1.0": {**one, "maxBatchDelay": 2, "responseTimeout": 120}}
    addresses = zip(("inference", "management", "metrics"), place.ports, strict=True)
    lines = [f"{name}_address=http://127.0.0.1:{at}" for name, at in addresses]
    lines += ["load_models=m.mar", f"models={json.dumps({'m': version})}", "default_workers_per_model=1"]
    settings = place.folder / "config.properties"
    settings.write_text("\n".join(lines) + "\n")
    start = "from ts.model_server import start; start()"
    options = ["--start", "--foreground", "--ncs", "--disable-token-auth", "--model-store", str(place.folder)]
    return [sys.executable, "-c", start, *options, "--ts-config", str(settings)]


def bentoml(place: Place) -> list[str]:
    where = ["--host", "127.0.0.1", "--port", str(place.ports[0])]
    return [sys.executable, "-m", "bentoml", "serve", "bentoml_server:Served", *where]


def tritonserver(place: Place) -> list[str]:
    """As the operator runs it."""
    (place.folder / "config").mkdir()
    (place.folder / "config/config.pbtxt").write_text(triton.CONFIG.replace("digits", "m"))
    triton_repository.lay_out(place.folder / "config", place.folder / "models", "m", "1")
    return triton.argv(triton.installed(Progress()), place.folder / "models", place.ports)


def tritonserver_env(place: Place) -> dict[str, str]:
    found = triton.environment(triton.installed(Progress()), place.exported)
    return {**found, "PYTHONPATH": str(CHECKOUT / "images/torch")}


PEERS = (
    Peer(
        f"Triton (pytriton {triton.VERSION}) with our model.py", (), "/v2/models/m/infer", tritonserver,
        open_inference_or_binary, tritonserver_env,
    ),
    Peer(
        "TorchServe 0.12.0", ("torchserve==0.12.0", "pyyaml", "setuptools<80"), "/predictions/m", torchserve,
        plain_or_bytes,
    ),
    Peer("MLServer 1.7.1", ("mlserver==1.7.1",), "/v2/models/m/infer", mlserver, open_inference),
    Peer("KServe 0.21.0", ("kserve==0.21.0",), "/v2/models/m/infer", script("kserve_server.py"), open_inference),
    Peer("LitServe 0.2.19", ("litserve==0.2.19",), "/predict", script("litserve_server.py")),
    Peer("BentoML 1.4.39", ("bentoml==1.4.39",), "/predict", bentoml, env=lambda _: {"BENTOML_DO_NOT_TRACK": "true"}),
    Peer("Ray Serve 2.60.0", ("ray[serve]==2.60.0",), "/", script("ray_server.py"), plain_or_bytes),
)  # fmt: skip


def installed(peer: Peer, progress: Progress) -> Path:
    def install(folder: Path) -> None:
        [uv, *_] = pypi.installers()  # `make` has seen to it
        with progress.step(f"fetching {peer.packages[0]} from PyPI"), tempfile.NamedTemporaryFile("w+") as without:
            without.write("torch ; python_version < '3'\n")  # the project's own serves all of them
            without.flush()
            argv = [*uv, "--quiet", "--target", str(folder), "--override", without.name, *peer.packages]
            done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=900)
        if done.returncode:
            raise ClusterError(f"{peer.packages[0]} could not be fetched from PyPI:\n{done.stderr.strip()}")

    parts = [("packages", " ".join(peer.packages).encode()), ("python", sys.version.encode())]
    return cache.publish("peers", f"{peer.name.split()[0]}-{cache.key(parts)}", install, progress)


def environment(peer: Peer, place: Place, case: Case, progress: Progress) -> dict[str, str]:
    return {
        **os.environ, "PEER_MODEL": str(place.frozen), "PEER_PORT": str(place.ports[0]), "PEER_SHAPE": str(case.shape),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1",
        **({"PYTHONPATH": f"{installed(peer, progress)}:{SERVERS}"} if peer.packages else {}), **peer.env(place),
        "HOME": str(place.folder), "TMPDIR": str(place.folder), "TEMP": str(place.folder),
    }  # fmt: skip


@contextlib.contextmanager
def served(peer: Peer, exported: Path, frozen: Path, case: Case, progress: Progress) -> Iterator[tuple[int, str]]:
    """Its process on the server's core, and the address of its inference once a request has had an answer."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as log:
        place = Place(Path(folder), unused(3), exported, frozen)
        settings = environment(peer, place, case, progress)
        argv = ["taskset", "-c", str(wrk.SERVER_CORE), *peer.argv(place)]
        process = subprocess.Popen(argv, env=settings, stdout=log, stderr=log, cwd=folder, start_new_session=True)
        url = f"http://127.0.0.1:{place.ports[0]}{peer.path}"
        try:
            deadline = time.monotonic() + READY_SECONDS
            while not answers(url, *peer.request(case)):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise ClusterError(f"{peer.name} does not answer: {log.read()[-5000:]}")
                time.sleep(0.2)
            yield process.pid, url
        finally:
            end(process)


def answers(url: str, body: bytes, headers: Mapping[str, str]) -> bool:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, dict(headers)), timeout=10) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def end(process: subprocess.Popen[bytes]) -> None:
    """With all that it started, which may have sessions of their own."""
    family = usage.family(process.pid)
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for pid in {*family, *usage.family(process.pid)}:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def prepare(progress: Progress) -> None:
    """All that they need, before anything is measured."""
    require((Package("default-jre-headless", "java"),), progress)
    triton.installed(progress)
    for peer in PEERS:
        if peer.packages:
            installed(peer, progress)


def load(
    peer: Peer, exported: Path, frozen: Path, case: Case, connections: Sequence[int], progress: Progress
) -> dict[int, wrk.Run]:
    """By the number of connections, in their order."""
    with served(peer, exported, frozen, case, progress) as (pid, url):
        body, headers = peer.request(case)
        return {count: wrk.load(pid, url, body, headers, connections=count) for count in connections}
