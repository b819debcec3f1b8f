"""`make bench-server`: the torch server on one core under load from another, against two limits and other
servers of the same run.

The limits: its own HTTP edge answering a constant, and the bare forward pass in the largest batch. All that the server
does for a user is on: validation, metrics, limits, the sampled access log.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from bench import ghz, models, openloop, page, peers, report, usage, wrk
from bench.report import Row, at_least, at_most, told
from cluster.progress import Progress

ROOT = Path(__file__).parents[2]
BATCH = 64
ROUNDS = 3
CONNECTIONS = (1, 16, 64, 512)
QUEUE = 128
BEST_PEER = {"mlp": 10, "conv": 5}
"""How many times as fast as the best of the others."""
SHARES = {"mlp": 0.40, "conv": 0.45, "transformer": 0.90}
"""Of its limit."""
OVERLOAD_SECONDS = 8.0


@contextlib.contextmanager
def pinned(
    *argv: str, env: dict[str, str] | None = None, log: IO[str] | int = subprocess.PIPE
) -> Iterator[subprocess.Popen[str]]:
    """A server on its core."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'images/torch'}:{ROOT / 'tests'}", **(env or {})}
    process = subprocess.Popen(["taskset", "-c", str(wrk.SERVER_CORE), *argv], env=environment, stdout=log, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def served(model: Path, **env: str) -> Iterator[tuple[int, str, float]]:
    """Process, address of `infer`, and seconds from its start until it was ready."""
    settings = {
        "MOORAGE_MODEL_PATH": str(model), "MOORAGE_MODEL_NAME": "m", "MOORAGE_HTTP_PORT": "0",
        "MOORAGE_METRICS_PORT": "0", "MOORAGE_MAX_BATCH_SIZE": str(BATCH), **env,
    }  # fmt: skip
    begin = time.perf_counter()
    with (
        tempfile.NamedTemporaryFile("w") as log,
        pinned(sys.executable, "-m", "moorage_server", env=settings, log=log) as process,
    ):
        events: dict[str, dict[str, Any]] = {}
        while "ready" not in events:
            if process.poll() is not None:
                raise AssertionError("the server ended")
            time.sleep(0.02)
            *whole, _ = Path(log.name).read_text().split("\n")
            events = {event["event"]: event for event in map(json.loads, whole)}
        port = events["listening"]["http"]
        yield process.pid, f"http://127.0.0.1:{port}/v2/models/m/infer", time.perf_counter() - begin


def hello_limit(connections: int) -> wrk.Run:
    body, headers = models.CASES["mlp"].request(binary=False)
    with pinned(sys.executable, "-m", "bench.hello") as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        return wrk.load(process.pid, f"http://127.0.0.1:{port}/", body, headers, connections=connections)


def forward_limit(folder: Path, name: str) -> float:
    program = (
        f"import pathlib; from bench.models import CASES, rows_per_second; "
        f"print(max(rows_per_second(pathlib.Path({str(folder)!r}), CASES[{name!r}], n) for n in (8, 32, {BATCH})))"
    )
    with pinned(sys.executable, "-c", program) as process:
        out, _ = process.communicate(timeout=300)
    return float(out.splitlines()[-1])


def grpc_aio(model: Path) -> float:
    """Calls per second of the same engine behind grpcio's own server."""
    with pinned(sys.executable, "-m", "bench.grpc_aio", str(model)) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        return ghz.load(process.pid, f"127.0.0.1:{port}", models.CASES["mlp"].message(), at_once=64).per_second


def median_round(limit: Callable[[], float], load: Callable[[], wrk.Run]) -> tuple[float, wrk.Run]:
    """Of rounds that measure both, one after the other, that whose share is the median: a machine's mood lasts for
    minutes."""
    rounds = [(limit(), load()) for _ in range(ROUNDS)]
    return sorted(rounds, key=lambda one: one[1].per_second / one[0])[ROUNDS // 2]


def numbers(run: wrk.Run | openloop.Run) -> dict[str, float]:
    return {key: report.rounded(value) or 0.0 for key, value in asdict(run).items()}


def main() -> None:
    progress = Progress()
    peers.prepare(progress)
    rows: list[Row] = []
    runs: dict[str, dict[str, float]] = {}

    with tempfile.TemporaryDirectory() as folder:
        for name, case in models.CASES.items():
            path = Path(folder, name)
            case.export(path)
            with served(path) as (pid, url, seconds):
                if name == "mlp":
                    rows.append(at_most("mlp, start to ready", 2.5, seconds, "s"))
                    rows.append(at_most("mlp, memory when ready", 350, usage.memory_mib(pid), "MiB"))
                for binary in (False, True):
                    body, headers = case.request(binary=binary)
                    for connections in CONNECTIONS:
                        what = f"{name} {'binary' if binary else 'JSON'} c={connections}"
                        with progress.step(what):
                            runs[what] = numbers(wrk.load(pid, url, body, headers, connections=connections))
                for at_once in (1, 16, 64):
                    what = f"{name} gRPC c={at_once}"
                    with progress.step(what):
                        address = url.removeprefix("http://").partition("/")[0]
                        runs[what] = numbers(ghz.load(pid, address, case.message(), at_once=at_once))
                broken = sum(int(run["broken"] + run["refused"]) for what, run in runs.items() if name in what)
                rows.append(at_most(f"{name}, requests without a good answer", 0, broken, ""))
                with progress.step(f"{name} against its limit, {ROUNDS} rounds"):
                    rows += compared(name, path, pid, url)
                if name == "mlp":
                    with progress.step(f"gRPC against grpc.aio, {ROUNDS} rounds"):
                        rows += compared_grpc(path, pid, url)
                if name in BEST_PEER:
                    rows += beside_peers(name, path, pid, url, runs, progress)
        with progress.step("twice as much as it can do"):
            rows += overload(Path(folder, "transformer"), runs)
    report.finish("server", rows, {"torch": report.installed("torch")}, runs=runs)
    page.write()


def compared(name: str, path: Path, pid: int, url: str) -> list[Row]:
    binary = name != "mlp"
    body, headers = models.CASES[name].request(binary=binary)
    what, of = f"{name} {'binary' if binary else 'JSON'}, c=64", "bare forward in batches"

    def load() -> wrk.Run:
        return wrk.load(pid, url, body, headers, connections=64)

    if name != "mlp":
        limit, run = median_round(lambda: forward_limit(path, name), load)
        rows = [told(f"{name}, {of}", limit, "rows/s")]
    else:
        of = "bare HTTP limit of the edge"
        limit, run = median_round(lambda: hello_limit(64).per_second, load)
        rows = [told(f"{of}, c=64", limit, "req/s"), at_most(f"{what}, p99", 5, run.p99, "ms")]
    share, of_it = run.per_second / limit, f"{what}, of the {of}"
    return [
        *rows,
        told(what, run.per_second, "req/s"),
        told(f"{what}, CPU of a request", run.cpu_us, "µs"),
        at_least(of_it, SHARES[name], share, "") if name in SHARES else told(of_it, share, ""),
    ]


def compared_grpc(model: Path, pid: int, url: str) -> list[Row]:
    address = url.removeprefix("http://").partition("/")[0]

    def load() -> wrk.Run:
        return ghz.load(pid, address, models.CASES["mlp"].message(), at_once=64)

    other, run = median_round(lambda: grpc_aio(model), load)
    return [
        told("grpc.aio before the same engine, c=64", other, "calls/s"),
        told("mlp gRPC, c=64", run.per_second, "calls/s"),
        at_most("mlp gRPC, CPU of a call", 400, run.cpu_us, "µs"),
        told("mlp gRPC, times grpc.aio", run.per_second / other, "×"),
    ]


def beside_peers(
    name: str, path: Path, pid: int, url: str, runs: dict[str, dict[str, float]], progress: Progress
) -> list[Row]:
    """By JSON; what is large, in bytes where it takes them. Ours right after each of them, on the same core."""
    case = models.CASES[name]
    frozen = path.with_suffix(".pt")
    case.freeze(frozen)
    body, headers = case.request(binary=case.large)
    rows: list[Row] = []
    times, broken = [], 0
    for peer in peers.PEERS:
        what = f"{name}, {peer.name}, c=64"
        with progress.step(f"{name}, {peer.name}"):
            # The one that is compared last: ours comes right after it.
            others = peers.load(peer, path, frozen, case, sorted(CONNECTIONS, key=lambda count: count == 64), progress)
            run = wrk.load(pid, url, body, headers, connections=64)
        for connections in CONNECTIONS:
            runs[f"{name}, {peer.name}, c={connections}"] = numbers(others[connections])
        other = others[64]
        runs[f"{what}: ours after it"] = numbers(run)
        broken += other.broken + other.refused + run.broken + run.refused
        rows += [told(what, other.per_second, "req/s"), told(f"{what}, CPU of a request", other.cpu_us, "µs")]
        if other.per_second:  # Ray Serve has rounds without an answer
            times.append(run.per_second / other.per_second)
    rows.append(at_most(f"{name}, requests without a good answer beside these", 0, broken, ""))
    return [*rows, at_least(f"{name}, times the best of these", BEST_PEER[name], min(times, default=0.0), "×")]


def overload(model: Path, runs: dict[str, dict[str, float]]) -> list[Row]:
    """An open loop of twice the rate that was reached with as many connections: what is taken is answered in its time,
    and the rest is told so at once."""
    connections = 512
    body, headers = models.CASES["transformer"].request(binary=True)
    with served(model, MOORAGE_MAX_QUEUE_SIZE=str(QUEUE)) as (pid, url, _):
        peak = wrk.load(pid, url, body, headers, connections=64).per_second
        openloop.load(url, body, headers, rate=2 * peak, connections=connections, seconds=3)
        before = usage.memory_mib(pid)
        run = openloop.load(url, body, headers, rate=2 * peak, connections=connections, seconds=OVERLOAD_SECONDS)
        grown = usage.memory_mib(pid) - before
    runs["transformer, twice its peak"] = numbers(run)
    what = f"twice the peak, {connections} connections"
    budget = QUEUE / peak * 1000
    return [
        at_least(f"{what}: good answers, of the peak", 0.9, run.good_in_time / OVERLOAD_SECONDS / peak, ""),
        at_most(f"{what}: p99 of the good, of the queue's time", 2, run.good_p99 / budget, ""),
        at_most(f"{what}: neither good nor refused with Retry-After", 0, run.broken + run.without_retry_after, ""),
        told(f"{what}: p99 of the refused", run.refused_p99, "ms"),
        at_most(f"{what}: not sent for want of a free connection", 0, run.unsent, ""),
        at_most(f"{what}: memory more than at its beginning", 5, grown, "MiB"),
    ]


if __name__ == "__main__":
    main()
