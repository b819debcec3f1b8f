"""The generated parts as text, by the name that their markers in the page carry. No I/O but reading their sources."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric

from moorage import telemetry

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/operations.md"
ALERTS = ROOT / "charts/moorage/files/alerts.yaml"
BENCHMARK = ROOT / "tests/bench/results/operator.json"


def sections() -> dict[str, str]:
    return {"metrics": metrics(), "alerts": alerts(), "capacity": capacity(BENCHMARK)}


def metrics() -> str:
    rows = [(f"`{name(m)}`", m.type, ", ".join(labels), m.documentation) for m, labels in families()]
    return table(("metric", "type", "labels", "meaning"), sorted(rows))


def families() -> Iterator[tuple[Metric, Sequence[str]]]:
    """Of every collector in telemetry, with the names of its labels, which are no public part of either."""
    for collector in vars(telemetry).values():
        if isinstance(collector, MetricWrapperBase | telemetry.Conditions):
            for family in collector.describe():
                yield family, getattr(collector, "_labelnames", None) or getattr(family, "_labelnames", ())


def name(family: Metric) -> str:
    """As it is scraped."""
    return family.name + ("_total" if family.type == "counter" else "")


def alerts() -> str:
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    rows = [
        (f"`{r['alert']}`", r["labels"]["severity"], r["annotations"]["meaning"], r["annotations"]["action"])
        for r in rules
    ]
    return table(("alert", "severity", "meaning", "what to do"), rows)


def capacity(results: Path) -> str:
    """Asked against measured, as the benchmark of the operator left them."""
    if not results.exists():
        return "Not measured yet: the benchmark of the operator writes `tests/bench/results/operator.json`."
    found = json.loads(results.read_text())
    cells = [(r["what"], r["asked"] or "–", amount(r), met(r)) for r in found["rows"]]
    return table(("what", "asked", "measured", "met"), cells)


def amount(row: dict[str, Any]) -> str:
    return "not measured" if row["measured"] is None else f"{row['measured']:,.10g} {row['unit']}".strip()


def met(row: dict[str, Any]) -> str:
    if not row["asked"]:
        return "–"
    return "yes" if row["ok"] else "**no**"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def begin(section: str) -> str:
    return f"<!-- {section}: made by `make docs` -->\n"


END = "<!-- end -->\n"


def filled(page: str) -> str:
    """The page with each part as it should be. A marker that is missing is an error."""
    for section, text in sections().items():
        before, found, rest = page.partition(begin(section))
        _, ended, after = rest.partition(END)
        if not found or not ended:
            raise ValueError(f"{PAGE.name} lacks the markers of {section}: {begin(section)}…{END}")
        page = before + begin(section) + text + "\n" + END + after
    return page
