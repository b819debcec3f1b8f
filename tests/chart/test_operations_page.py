"""docs/operations.md speaks of values, metrics and reasons that are there, and of all metrics."""

import re

import yaml
from prometheus_client import Counter
from prometheus_client.metrics import MetricWrapperBase

from chart.rendered import CHART, ROOT
from moorage import telemetry

PAGE = (ROOT / "docs/operations.md").read_text()


def test_every_metric_is_listed_and_no_other() -> None:
    metrics = [value for value in vars(telemetry).values() if isinstance(value, MetricWrapperBase)]
    names = {m.describe()[0].name + ("_total" if isinstance(m, Counter) else "") for m in metrics}
    assert set(re.findall(r"moorage_operator_\w+", PAGE)) == names


def test_every_value_named_is_there() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    tops = "|".join(values)
    for path in re.findall(rf"(?:`|--set )((?:{tops})(?:\.[A-Za-z]+)+)", PAGE):
        if path == "prometheus.io":  # an annotation
            continue
        found = values
        for part in path.split("."):
            assert part in found, path
            found = found[part]


def test_every_reason_named_is_one() -> None:
    table = PAGE[PAGE.index("| reason |") : PAGE.index("## Metrics")]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    reasons = {reason for cell in cells for reason in re.findall(r"`(\w+)`", cell)}
    sources = [*(ROOT / "operator/moorage").rglob("*.py"), ROOT / "docs/contracts.md"]
    text = "\n".join(path.read_text() for path in sources)
    # Made of two parts in code: the kind's name and NotFound.
    composed = {"SecretNotFound", "ConfigMapNotFound", "ClaimNotFound"}
    # The Job controller's own word.
    composed.add("DeadlineExceeded")
    assert [r for r in sorted(reasons - composed) if not re.search(rf"[\"'`]{r}[\"'`]", text)] == []
