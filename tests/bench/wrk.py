"""Load by wrk on a core of its own, and what a server on another core did under it."""

import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from bench import usage
from cluster.packages import Package, require
from cluster.progress import Progress

SERVER_CORE, CLIENT_CORE = 0, 1

# The script writes what wrk only prints for people.
SCRIPT = """
local file = io.open(os.getenv("BENCH_BODY"), "rb")
wrk.method, wrk.body = "POST", file:read("*a")
file:close()
for name, value in string.gmatch(os.getenv("BENCH_HEADERS"), "([^:\\n]+): ([^\\n]+)") do wrk.headers[name] = value end
local paths = {}
for path in string.gmatch(os.getenv("BENCH_PATHS"), "[^\\n]+") do paths[#paths + 1] = path end
if #paths > 1 then
  function request() return wrk.format(nil, paths[math.random(#paths)]) end
end
function done(summary, latency, requests)
  local errors = summary.errors
  io.stderr:write(string.format(
    '{"requests": %d, "seconds": %f, "p50": %f, "p99": %f, "p999": %f, "refused": %d, "broken": %d}',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    latency:percentile(99.9) / 1e3, errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
"""


@dataclass(frozen=True)
class Run:
    """Milliseconds, but for `cpu_us`: microseconds of the server's CPU for each request. CPU and memory: of all its
    processes."""

    per_second: float
    p50: float
    p99: float
    p999: float
    refused: int
    broken: int
    cpu_us: float
    memory_mib: float


def load(
    pid: int,
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    connections: int,
    seconds: float = 5,
    others: Sequence[str] = (),
) -> Run:
    """After a second to warm up. `refused`: answers that were no success; `broken`: no answers. `others`: URLs of the
    same server of which each request asks any."""
    require((Package("wrk", "wrk"),), Progress())
    with tempfile.TemporaryDirectory() as folder:
        script, content = Path(folder, "script.lua"), Path(folder, "body")
        script.write_text(SCRIPT)
        content.write_bytes(body)
        told = "\n".join(f"{name}: {value}" for name, value in headers.items())
        paths = "\n".join(urlsplit(one).path for one in (url, *others))
        environment = {"BENCH_BODY": str(content), "BENCH_HEADERS": told, "BENCH_PATHS": paths, "PATH": "/usr/bin:/bin"}

        def run(for_seconds: float) -> dict[str, float]:
            argv = [
                "taskset", "-c", str(CLIENT_CORE), "wrk", "-t1", f"-c{connections}", f"-d{for_seconds:g}s",
                "--latency", "--timeout", "10s", "-s", str(script), url,
            ]  # fmt: skip
            done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
            found: dict[str, float] = json.loads(done.stderr)
            return found

        run(1)
        before = usage.family_cpu_seconds(pid)
        found = run(seconds)
        spent = usage.family_cpu_seconds(pid) - before
    requests = max(1.0, found["requests"])
    return Run(
        per_second=found["requests"] / found["seconds"],
        p50=found["p50"], p99=found["p99"], p999=found["p999"],
        refused=int(found["refused"]), broken=int(found["broken"]),
        cpu_us=spent / requests * 1e6,
        memory_mib=usage.family_memory_mib(pid),
    )  # fmt: skip
