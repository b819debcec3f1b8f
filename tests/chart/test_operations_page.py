"""docs/operations.md holds what code, alerts and benchmarks say, and speaks of no value or metric that is not there."""

import json
import re
from pathlib import Path

import pytest
import yaml

from chart.rendered import CHART, ROOT
from reference.sections import capacity, families, filled, name

PAGE = (ROOT / "docs/operations.md").read_text()


def test_the_generated_parts_are_up_to_date() -> None:
    assert filled(PAGE) == PAGE, "run `make docs`"


def test_a_lost_marker_is_told() -> None:
    with pytest.raises(ValueError, match="lacks the markers of metrics"):
        filled(PAGE.replace("<!-- metrics", "<!-- matrix"))


def test_every_metric_named_is_one() -> None:
    names = {name(family) for family, _ in families()}
    assert len(names) > 15
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


def test_capacity_says_what_was_missed_and_what_was_not_measured(tmp_path: Path) -> None:
    rows = [
        {"what": "time", "asked": "≤ 2.5", "measured": 2.1, "unit": "s", "ok": True},
        {"what": "memory", "asked": "≤ 110", "measured": 1234.0, "unit": "MiB", "ok": False},
        {"what": "all", "asked": "", "measured": None, "unit": "s", "ok": True},
    ]
    results = tmp_path / "operator.json"
    assert "Not measured yet" in capacity(results)
    results.write_text(json.dumps({"rows": rows}))
    assert capacity(results).splitlines()[2:] == [
        "| time | ≤ 2.5 | 2.1 s | yes |",
        "| memory | ≤ 110 | 1,234 MiB | **no** |",
        "| all | – | not measured | – |",
    ]
