"""Every log line is one JSON object with the same keys, ours and those of libraries; conditions are counted in all."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from prometheus_client.metrics_core import Metric

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


async def counted(resources: list[dict[str, Any]]) -> Conditions:
    conditions = Conditions()
    task = asyncio.create_task(conditions.keep_counting(lambda: iter(resources)))
    await asyncio.sleep(0.3)
    assert not task.done()
    task.cancel()
    return conditions


def values(family: Metric) -> dict[tuple[str, ...], float]:
    return {tuple(sample.labels.values()): sample.value for sample in family.samples}


async def test_conditions_are_counted_with_one_series_for_any_number_of_resources() -> None:
    assert [family.samples for family in Conditions().collect()] == [[], []], "who does not lead knows nothing"
    resources = [resource("ModelDeployment", ("Ready", "True", age), ("Stalled", "False", 5)) for age in range(500)]
    resources += [
        resource("ModelDeployment", ("Ready", "False", 1000)),
        resource("TrainingJob"),
        {"kind": "TrainingJob"},
    ]
    number, age = (await counted(resources)).collect()
    assert values(number) == {
        ("ModelDeployment", "Ready", "True"): 500,
        ("ModelDeployment", "Ready", "False"): 1,
        ("ModelDeployment", "Stalled", "False"): 500,
    }
    assert 499 <= values(age)["ModelDeployment", "Ready", "True"] < 520
    assert 1000 <= values(age)["ModelDeployment", "Ready", "False"] < 1020


async def test_others_have_their_turn_while_conditions_are_counted() -> None:
    def endless() -> Iterator[dict[str, Any]]:
        while True:
            yield resource("TrainingJob", ("Succeeded", "True", 1))

    task = asyncio.create_task(Conditions().keep_counting(endless))
    async with asyncio.timeout(20):
        for _turn in range(3):
            await asyncio.sleep(0.01)
    assert not task.done()
    task.cancel()
