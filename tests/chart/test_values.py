"""values.yaml is a manual, its schema knows just what it holds, and a wrong value is refused in words that help."""

import json
import re
from collections.abc import Iterator

import pytest
import yaml

from chart.rendered import CHART, Manifest, Refused, Render

VALUES = (CHART / "values.yaml").read_text()
SCHEMA = json.loads((CHART / "values.schema.json").read_text())


def test_every_value_has_a_sentence() -> None:
    lines = VALUES.splitlines()
    for above, line in zip(["", *lines], lines, strict=False):
        if not re.match(r"\s*[A-Za-z]+:", line) or re.match(r"\s*(requests|limits|cpu|memory):", line):
            continue
        is_block = line.endswith(":")
        assert is_block or re.match(r"\s*# .*\.$", above), f"no sentence above: {line}"


def paths(value: object, schema: Manifest, path: str = "") -> Iterator[tuple[str, object, Manifest]]:
    """Blocks of values.yaml beside their schema."""
    if "properties" in schema:
        yield path, value, schema
        for name, sub in schema["properties"].items():
            if isinstance(value, dict) and name in value:
                yield from paths(value[name], sub, f"{path}.{name}")


def test_schema_and_values_hold_the_same_names() -> None:
    for path, value, schema in paths(yaml.safe_load(VALUES), SCHEMA):
        assert isinstance(value, dict)
        # Helm gives `global` to every chart that is part of another.
        assert schema["properties"].keys() - {"global"} == value.keys(), path
        assert schema["additionalProperties"] is False, path


REFUSED: dict[str, tuple[Manifest, str]] = {
    "unknown value": ({"replica": 2}, "additional properties 'replica' not allowed"),
    "unknown nested value": ({"prometheus": {"address": "x"}}, "additional properties 'address' not allowed"),
    "no replica": ({"replicas": 0}, r"/replicas': minimum: got 0, want 1"),
    "replicas as text": ({"replicas": "2"}, r"/replicas': got string, want integer"),
    "one namespace as text": ({"watchNamespaces": "team-a"}, r"/watchNamespaces': got string, want array"),
    "loud log": ({"logging": {"level": "loud"}}, "must be one of 'debug', 'info', 'warning', 'error'"),
    "pod monitors": ({"podMonitors": {"mode": "On"}}, "must be one of 'Auto', 'Enabled', 'Disabled'"),
    "no scheme": (
        {"prometheus": {"url": "prometheus:9090"}},
        "write for example http://prometheus.monitoring.svc:9090",
    ),
    "no host": ({"prometheus": {"url": "http://"}}, "must be a whole address"),
    "image as block": ({"image": {"repository": "x", "tag": "y"}}, r"/image': got object, want string"),
    "late renewal": (
        {"lease": {"durationSeconds": 10}},
        r"renewDeadlineSeconds \(10\) must be smaller than lease.durationSeconds \(10\)",
    ),
    "late retry": ({"lease": {"retrySeconds": 10}}, r"retrySeconds \(10\) must be smaller"),
    "no time": ({"scaling": {"intervalSeconds": 0}}, "exclusiveMinimum: got 0, want 0"),
    "GPU without a domain": ({"runtimes": {"gpuResource": "gpu"}}, "gpuResource"),
    "a setting by its back door": ({"extraEnv": [{"name": "MOORAGE_WORKERS", "value": "1"}]}, "has a value of its own"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(render: Render, case: str) -> None:
    values, words = REFUSED[case]
    with pytest.raises(Refused, match=words):
        render(values)
