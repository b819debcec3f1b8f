"""Every log line is one JSON object with the same keys, ours and those of libraries."""

import json
import subprocess
import sys

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
