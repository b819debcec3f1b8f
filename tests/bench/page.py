"""The tables of docs/benchmarks.md that come from `results/`: between marks on the page, made anew by each benchmark.

`python -m bench.page` writes them; a test compares.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.report import RESULTS, number

PAGE = Path(__file__).parents[2] / "docs/benchmarks.md"
MARK = re.compile(r"(<!-- results of (?P<name>[a-z0-9-]+), written by a program -->\n).*?(<!-- end -->)", re.DOTALL)
PROGRAMS = ("operator", "kube-apiserver", "etcd", "kube-controller-manager", "kube-scheduler", "kwok")
Result = Mapping[str, Any]


def write() -> None:
    PAGE.write_text(rendered(PAGE.read_text()))


def rendered(text: str) -> str:
    return MARK.sub(lambda found: f"{found[1]}{section(found['name'])}{found[3]}", text)


def section(name: str) -> str:
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return "Not measured yet.\n"
    result = json.loads(path.read_text())
    parts = [where(result), rows(result)]
    if result.get("phases"):
        parts.append(phases(result))
    if result.get("runs"):
        parts += [*charts(result), runs(result)]
    return "\n".join(parts)


def where(result: Result) -> str:
    machine, versions = result["machine"], result["versions"]
    return (
        f"Measured on {result['measured']}: {machine['cores']} cores ({machine['architecture']}), "
        f"{machine['memory_gib']} GiB, Python {machine['python']}, {_versions(versions)}.\n"
    )


def _versions(versions: Mapping[str, str]) -> str:
    told = (("torch", "torch"),) if "torch" in versions else (("kopf", "kopf"), ("Kubernetes", "kubernetes"))
    return ", ".join(f"{name} {versions[key].removeprefix('v')}" for name, key in told)


def rows(result: Result) -> str:
    lines = ["| what | asked | measured | |", "|---|---|---|---|"]
    for row in result["rows"]:
        measured = f"{number(row['measured'])} {row['unit']}".strip()
        verdict = "" if not row["asked"] else "yes" if row["ok"] else "**no**"
        lines.append(f"| {row['what']} | {row['asked']} | {measured} | {verdict} |")
    return "\n".join(lines) + "\n"


def phases(result: Result) -> str:
    heads = ["wall s", "operator ms each", "operator MiB, highest", *(f"{program}" for program in PROGRAMS)]
    lines = [f"| phase | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for phase in result["phases"]:
        memory = f"{phase['memory_mib']:g}, {phase['highest_memory_mib']:g}" if phase["memory_mib"] else "–"
        cells = [f"{phase['wall_s']:g}", f"{phase['operator_ms_per_resource']:g}", memory]
        cells += [f"{phase['cpu_s'].get(program, 0):g}" for program in PROGRAMS]
        lines.append(f"| {phase['name']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


_COMPARED = re.compile(r"(?P<model>\w+) (?P<kind>JSON|binary), c=64")
_PEER = re.compile(r"(?P<model>\w+), (?P<server>[^,:]+), c=64")


def charts(result: Result) -> list[str]:
    """Requests a second of each server of the run with 64 connections, for each model, as Mermaid draws them."""
    drawn = []
    compared = [found for row in result["rows"] if (found := _COMPARED.fullmatch(row["what"]))]
    for model, ours in ((found["model"], f"{found['model']} {found['kind']} c=64") for found in compared):
        peers = {
            found["server"].split(" (")[0]: run["per_second"]
            for what, run in result["runs"].items()
            if (found := _PEER.fullmatch(what)) and found["model"] == model
        }
        if peers:
            slower = dict(sorted(peers.items(), key=lambda one: -one[1]))
            drawn.append(_chart(model, {"Moorage": result["runs"][ours]["per_second"], **slower}))
    return drawn


def _chart(model: str, per_second: Mapping[str, float]) -> str:
    lines = [
        "```mermaid",
        "xychart-beta horizontal",
        f'  title "{model}: requests a second, 64 connections, one core"',
        "  x-axis [" + ", ".join(f'"{name}"' for name in per_second) + "]",
        "  bar [" + ", ".join(f"{each:g}" for each in per_second.values()) + "]",
        "```",
    ]
    return "\n".join(lines) + "\n"


def runs(result: Result) -> str:
    heads = ("requests/s", "p50 ms", "p99 ms", "p99.9 ms", "CPU µs each", "MiB", "refused", "broken")
    keys = ("per_second", "p50", "p99", "p999", "cpu_us", "memory_mib", "refused", "broken")
    lines = [f"| run | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for what, run in result["runs"].items():
        if "per_second" in run:
            lines.append(f"| {what} | {' | '.join(number(run[key]) for key in keys)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    write()
