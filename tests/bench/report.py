"""What a benchmark found: rows of asked and measured, a table for people, JSON for the docs.

The JSON also says on what it was measured: numbers of two machines, or of two versions, are not the same numbers.
"""

import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("aiohttp", "kopf", "kubernetes", "prometheus-client", "pydantic")
console = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Row:
    what: str
    asked: str
    measured: float | None
    unit: str
    ok: bool


def at_most(what: str, limit: float, measured: float | None, unit: str) -> Row:
    """Without a measure it counts as missed."""
    ok = measured is not None and measured <= limit
    return Row(what, f"≤ {limit:g}" if limit else "0", rounded(measured), unit, ok)


def at_least(what: str, limit: float, measured: float | None, unit: str) -> Row:
    return Row(what, f"≥ {limit:g}", rounded(measured), unit, measured is not None and measured >= limit)


def told(what: str, measured: float, unit: str) -> Row:
    """Nothing is asked of it; it belongs to the picture."""
    return Row(what, "", rounded(measured), unit, True)


def rounded(value: float | None) -> float | None:
    """Three digits that count: more would claim a precision that no run has."""
    return None if value is None else float(f"{value:.3g}") if abs(value) < 1000 else float(round(value))


def number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:,.10g}"


def finish(name: str, rows: Sequence[Row], versions: Mapping[str, str], **details: Any) -> Path:
    """Prints the table and writes `results/NAME.json`."""
    show(rows)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    result = {
        "measured": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": machine(),
        "versions": {**{package: installed(package) for package in PACKAGES}, **versions, "commit": commit()},
        "rows": [asdict(row) for row in rows],
        **details,
    }
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    console.print(f"written: {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")
    return path


def show(rows: Sequence[Row]) -> None:
    table = Table("what", "asked", "measured", "unit", "", title="asked and measured", title_justify="left")
    for row in rows:
        verdict = "" if not row.asked else "[green]✓[/green]" if row.ok else "[bold red]FALLS SHORT[/bold red]"
        table.add_row(row.what, row.asked, number(row.measured), row.unit, verdict)
    console.print(table)
    short = [row.what for row in rows if not row.ok]
    if short:
        console.rule(f"{len(short)} OF {sum(bool(row.asked) for row in rows)} FALL SHORT", style="bold red")
        for what in short:
            console.print(f"  ✗ {what}", style="red", markup=False)


def machine() -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30),
        "architecture": platform.machine(),
        "python": platform.python_version(),
    }


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def commit() -> str:
    """What was measured, with a + where the checkout held more than the commit; empty without git."""
    try:
        head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")
