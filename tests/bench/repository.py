"""`make bench-repository`: many small models in one server, against one model in a server like it.

What a model costs beside others is what it would cost alone without them: its memory, and the requests that are lost by
having many names for a batch. And what it costs where only half of them fit.
"""

import tempfile
from pathlib import Path

import orjson

from bench import models, page, report, usage, wrk
from bench.report import Row, at_most, told
from bench.server import numbers, served
from cluster.progress import Progress

MODELS = 64
CASE = models.CASES["mlp"]


def main() -> None:
    progress = Progress()
    with tempfile.TemporaryDirectory() as folder:
        one, root = Path(folder, "m"), Path(folder, "models")
        CASE.export(one)
        names = [f"m{number}" for number in range(MODELS)]
        for seed, name in enumerate(names):
            CASE.export(root / name, seed)
        listed = orjson.dumps([{"name": name} for name in names]).decode()
        body, headers = CASE.request(binary=False)

        with progress.step("one model"), served(one) as (pid, url, alone_seconds):
            alone_memory = usage.memory_mib(pid)
            alone = wrk.load(pid, url, body, headers, connections=64)
        with progress.step(f"{MODELS} models"), served(root, MOORAGE_MODELS=listed) as (pid, url, seconds):
            memory = usage.memory_mib(pid)
            urls = urls_of(url, names)
            first = wrk.load(pid, urls[0], body, headers, connections=64)
            turns = wrk.load(pid, urls[0], body, headers, connections=64, others=urls[1:])
        file = (one / "model.pt2").stat().st_size
        budget = {"MOORAGE_MODELS": listed, "MOORAGE_MEMORY_BUDGET_BYTES": str(MODELS // 2 * file)}
        with progress.step("half of them fit"), served(root, **budget) as (pid, url, _):
            half = usage.memory_mib(pid)
            urls = urls_of(url, names)
            scarce = wrk.load(pid, urls[0], body, headers, connections=4, seconds=30, others=urls[1:])
    rows: list[Row] = [
        told("one model, start to ready", alone_seconds, "s"),
        told("one model, memory when ready", alone_memory, "MiB"),
        told("one model, c=64", alone.per_second, "req/s"),
        told(f"{MODELS} models, start to ready", seconds, "s"),
        told(f"{MODELS} models, memory when ready", memory, "MiB"),
        told("each further model, memory", (memory - alone_memory) / (MODELS - 1), "MiB"),
        told("each model, counted with", file / (1 << 20), "MiB"),
        told("the first of them alone, c=64", first.per_second, "req/s"),
        told("any of them, c=64", turns.per_second, "req/s"),
        told("any of them, CPU of a request", turns.cpu_us, "µs"),
        told("half of them fit, memory when ready", half, "MiB"),
        told("half of them fit, any of all, c=4", scarce.per_second, "req/s"),
        told("half of them fit, p99", scarce.p99, "ms"),
        at_most(
            "requests without a good answer", 0, sum(run.broken + run.refused for run in (first, turns, scarce)), ""
        ),
    ]
    runs = {"one": alone, "first": first, "any": turns, "half fit": scarce}
    found = {name: numbers(run) for name, run in runs.items()}
    report.finish("repository", rows, {"torch": report.installed("torch")}, runs=found)
    page.write()


def urls_of(url: str, names: list[str]) -> list[str]:
    return [url.replace("/m/", f"/{name}/") for name in names]


if __name__ == "__main__":
    main()
