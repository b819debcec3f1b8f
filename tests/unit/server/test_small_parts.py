"""The parts that need no server: the in-flight integral, the log's sampling, the CPU limit."""

from pathlib import Path
from typing import Any

import pytest
import structlog

from moorage_server.logs import AccessLog
from moorage_server.metrics import InFlight
from moorage_server.threads import cpus


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_integral_of_requests_in_flight() -> None:
    clock = Clock()
    in_flight = InFlight(clock)
    clock.now = 10  # nothing for ten seconds
    in_flight.begin(10)
    clock.now = 12  # one for two
    in_flight.begin(12)
    clock.now = 15  # two for three
    assert (in_flight.now, in_flight.seconds) == (2, 8)
    in_flight.end(10, 5)
    clock.now = 16
    assert in_flight.seconds == 9
    in_flight.end(12, 4)
    clock.now = 99
    assert (in_flight.now, in_flight.seconds) == (0, 9)


def written(level: str, statuses: list[int]) -> list[dict[str, Any]]:
    with structlog.testing.capture_logs() as lines:
        log = AccessLog(level)
        for status in statuses:
            if log.wanted(status, 0.0):
                log.write(status, "POST", "/v2/models/m/infer", 0.001)
    return [dict(line) for line in lines]


def test_the_access_log_writes_some_of_each_second() -> None:
    assert len(written("info", [200] * 100)) == 10
    # Failures have a share of their own, so that they are not lost among the others.
    assert [line["status"] for line in written("info", [200] * 100 + [500] * 100)] == [200] * 10 + [500] * 10
    assert len(written("warning", [200] * 100 + [500] * 3)) == 3
    assert len(written("debug", [200] * 100)) == 100


def test_the_access_log_says_how_many_it_left_out() -> None:
    with structlog.testing.capture_logs() as lines:
        log = AccessLog("info")
        for moment in [0.0] * 15 + [1.5]:
            if log.wanted(200, moment):
                log.write(200, "POST", "/", 0.001)
    assert "left_out" not in lines[9]
    assert lines[10]["left_out"] == 5


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "100000 100000"}, 1),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({}, None),
    ],
)
def test_threads_follow_the_cgroup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], limit: int | None
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2})
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content + "\n")
    assert cpus(tmp_path) == (limit or 3)


def test_threads_of_a_limit_above_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    (tmp_path / "cpu.max").write_text("250000 100000")
    assert cpus(tmp_path) == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert cpus(tmp_path) == 5
