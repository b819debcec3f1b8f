"""The alerts, by Prometheus's own promtool: each fires when it has to, and none on an ordinary day."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from chart.rendered import CHART, Render
from chart.variants import VARIANTS
from cluster import binaries
from cluster.choice import unavailable
from cluster.progress import Progress
from reference.sections import families, name

RULES = CHART / "files/alerts.yaml"
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
]


@pytest.fixture(scope="module")
def promtool() -> Path:
    if reason := unavailable("api"):
        pytest.skip(reason)
    return binaries.ensure(["prometheus"], Progress()).path("promtool")


def run(promtool: Path, *args: str) -> None:
    done = subprocess.run([promtool, *args], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def series(metric: str, values: str, **labels: str) -> dict[str, str]:
    """One sample each 30 s, in promtool's notation."""
    labels = {"namespace": "m", "job": "a", "instance": "1", **labels}
    inner = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return {"series": f"{metric}{{{inner}}}", "values": values}


def model(metric: str, values: str, condition: str, status: str, kind: str = "ModelDeployment") -> dict[str, str]:
    return series(f"moorage_operator_{metric}", values, kind=kind, condition=condition, status=status)


LEADS = series("moorage_operator_leader", "1x200")
STANDS_BY = series("moorage_operator_leader", "0x200", instance="2")

ORDINARY_DAY = [
    LEADS,
    STANDS_BY,
    series("process_start_time_seconds", "7x40 900x160"),  # one upgrade
    series("moorage_operator_queue_depth", "0 900 500 0x198"),  # a resync of many
    series("moorage_operator_watch_lag_seconds", "0x50 45 0x149"),
    # An API server that was away for a minute; conflicts are tried again and nothing to speak of.
    series("moorage_operator_reconcile_errors_total", "0x10 400 900x189", kind="TrainingJob", reason="Unreachable"),
    series("moorage_operator_reconcile_errors_total", "0+3x200", kind="ModelDeployment", reason="Conflict"),
    series("moorage_operator_scaling_queries_total", "0+6x200", outcome="ok"),
    series("moorage_operator_scaling_queries_total", "0x30 3x170", outcome="PrometheusTimeout"),
    model("conditions", "9x200", "Stalled", "False"),
    model("conditions", "2x200", "Stalled", "True", kind="TrainingJob"),  # two trainings that failed last week
    model("condition_age_seconds", "600000+30x200", "Succeeded", "False", kind="TrainingJob"),
    model("condition_age_seconds", "9000+30x200", "Ready", "True"),
    model("condition_age_seconds", "0+30x20 _x20 0+30x20 _x138", "Ready", "Unknown"),  # ten minutes on its way, twice
    model("condition_age_seconds", "9000+30x200", "ScalingActive", "True"),
    series("moorage_server_model_failed", "1x5 stale", model="lorry", reason="ModelNotFound"),  # and came soon after
]

# What each is for, when it is not yet time, and when it fires.
TROUBLE: dict[str, tuple[list[dict[str, str]], int, int]] = {
    "MoorageDown": ([series("moorage_operator_leader", "1x10 stale")], 9, 11),
    "MoorageLeaderMissing": ([series("moorage_operator_leader", "1x10 0x50"), STANDS_BY], 6, 8),
    "MoorageTwoLeaders": ([LEADS, series("moorage_operator_leader", "0x10 1x50", instance="2")], 6, 8),
    "MoorageRestarting": ([LEADS, series("process_start_time_seconds", "1x9 2x9 3x9 4x9 5x9")], 18, 21),
    "MoorageQueueGrowing": ([LEADS, series("moorage_operator_queue_depth", "0x10 50+5x90")], 19, 22),
    # One resource that fails for ever is tried each five minutes.
    "MoorageReconcileErrors": (
        [
            LEADS,
            series(
                "moorage_operator_reconcile_errors_total",
                " ".join(f"{count}x9" for count in range(1, 21)),
                kind="ModelDeployment",
                reason="Forbidden",
            ),
        ],
        30,
        40,
    ),
    "MoorageWatchLag": (
        [LEADS, series("moorage_operator_watch_lag_seconds", "0x9 35 0x6 50 0x6 40 0x6 45 0x50")],
        9,
        12,
    ),
    "MoorageScalingQueriesFailing": (
        [LEADS, series("moorage_operator_scaling_queries_total", "0x10 1+6x90", outcome="PrometheusUnreachable")],
        14,
        17,
    ),
    "MoorageModelNotReady": ([LEADS, model("condition_age_seconds", "0+30x90", "Ready", "False")], 14, 16),
    "MoorageModelStalled": ([LEADS, model("conditions", "0x10 1x90", "Stalled", "True")], 9, 11),
    "MoorageModelNotScaling": ([LEADS, model("condition_age_seconds", "0+30x90", "ScalingActive", "False")], 14, 16),
    "MoorageModelNotLoaded": (
        [LEADS, series("moorage_server_model_failed", "_x10 1x90", model="lorry", reason="ModelNotFound")],
        9,
        12,
    ),
}


def firing(minutes: int, *alerts: str) -> dict[str, Any]:
    expected = [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in alerts]
    query = 'count by (alertname) (ALERTS{alertstate="firing"})'
    return {"expr": query, "eval_time": f"{minutes}m", "exp_samples": expected}


def play(promtool: Path, folder: Path, input_series: list[dict[str, str]], *expected: dict[str, Any]) -> None:
    test = {"interval": "30s", "input_series": input_series, "promql_expr_test": list(expected)}
    file = folder / "test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "30s", "tests": [test]}))
    run(promtool, "test", "rules", str(file))


@pytest.mark.api
def test_the_rules_are_sound(promtool: Path) -> None:
    run(promtool, "check", "rules", "--lint=all", "--lint-fatal", str(RULES))


@pytest.mark.api
def test_an_ordinary_day_is_silent(promtool: Path, tmp_path: Path) -> None:
    play(promtool, tmp_path, ORDINARY_DAY, *(firing(minutes) for minutes in range(0, 100, 2)))


@pytest.mark.api
@pytest.mark.parametrize("alert", TROUBLE)
def test_fires_in_time_and_not_before(promtool: Path, tmp_path: Path, alert: str) -> None:
    input_series, silent, loud = TROUBLE[alert]
    play(promtool, tmp_path, input_series, firing(silent), firing(loud, alert))


def test_every_alert_has_its_trouble() -> None:
    assert [rule["alert"] for rule in ALERTS] == list(TROUBLE)


def test_every_metric_in_a_rule_is_one_of_ours() -> None:
    names = {name(family) for family, _ in families()}
    for rule in ALERTS:
        assert set(re.findall(r"moorage_operator_\w+", rule["expr"])) <= names


def test_the_chart_brings_them_as_they_are(render: Render) -> None:
    assert render().of("PrometheusRule") == []
    rule = render(VARIANTS["monitored"]).one("PrometheusRule")
    assert rule["spec"] == yaml.safe_load(RULES.read_text())
    assert rule["metadata"]["labels"]["release"] == "prometheus"
