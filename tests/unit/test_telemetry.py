"""Every log line is one JSON object with the same keys, ours and those of libraries; conditions are counted in all."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

from moorage.telemetry import Conditions

CODE = """
import logging, structlog
from moorage import telemetry
telemetry.configure_logging("info", "json")
with structlog.contextvars.bound_contextvars(kind="ModelDeployment", namespace="ns", name="a"):
    structlog.get_logger().info("applied", child="Service/a")
structlog.get_logger().debug("not shown")
logging.getLogger("kopf.x").error("a %s of kopf", "word", extra={"k8s_ref": {"uid": 1}})
try:
    1 / 0
except ZeroDivisionError:
    structlog.get_logger().exception("broke")
"""


def test_lines_are_json_with_stable_keys() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=30, check=True)
    first, second, third = (json.loads(line) for line in done.stdout.splitlines())
    assert list(first)[:6] == ["ts", "level", "event", "kind", "namespace", "name"]
    assert first["child"] == "Service/a"
    assert (second["event"], second["logger"], second["level"]) == ("a word of kopf", "kopf.x", "error")
    assert "k8s_ref" not in second
    assert "ZeroDivisionError" in third["exception"]


def resource(kind: str, *conditions: tuple[str, str, float]) -> dict[str, Any]:
    """With conditions of a type and status, since so many seconds."""
    now = datetime.now(UTC)
    told = [
        {"type": type, "status": status, "lastTransitionTime": f"{now - timedelta(seconds=age):%Y-%m-%dT%H:%M:%SZ}"}
        for type, status, age in conditions
    ]
    return {"kind": kind, "status": {"conditions": told}}


def test_conditions_are_counted_with_one_series_for_any_number_of_resources() -> None:
    conditions = Conditions()
    assert [family.samples for family in conditions.collect()] == [[], []]
    resources = [resource("ModelDeployment", ("Ready", "True", age), ("Stalled", "False", 5)) for age in range(500)]
    resources += [
        resource("ModelDeployment", ("Ready", "False", 1000)),
        resource("TrainingJob"),
        {"kind": "TrainingJob"},
    ]
    conditions.read_from(lambda: iter(resources))
    number, age = conditions.collect()
    assert {tuple(s.labels.values()): s.value for s in number.samples} == {
        ("ModelDeployment", "Ready", "True"): 500,
        ("ModelDeployment", "Ready", "False"): 1,
        ("ModelDeployment", "Stalled", "False"): 500,
    }
    ages = {tuple(s.labels.values()): s.value for s in age.samples}
    assert 499 <= ages["ModelDeployment", "Ready", "True"] < 520
    assert 1000 <= ages["ModelDeployment", "Ready", "False"] < 1020
