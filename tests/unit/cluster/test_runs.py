"""What a killed run has left is found and ended; what belongs to a run that goes on is left alone."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from cluster import runs
from cluster.names import Names
from cluster.processes import RUN, Process, boot_id, look

SLEEP = [sys.executable, "-S", "-c", "print('here', flush=True); import time; time.sleep(100)"]
DEAD = Process(pid=1, started=0, boot="an earlier one")


def started(value: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(SLEEP, env={**os.environ, RUN: value}, stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline()  # it has its environment only after the exec
    return process


@pytest.fixture
def helper() -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def value(checkout: Path, run: Process) -> str:
    return json.dumps({"checkout": str(checkout), **asdict(run)})


def test_helpers_of_a_run_that_was_killed_are_ended_and_no_others(
    tmp_path: Path, helper: list[subprocess.Popen[str]]
) -> None:
    itself = look(os.getpid())
    assert itself
    helper += [
        started(value(tmp_path, DEAD)),
        started(value(tmp_path, itself)),
        started(value(tmp_path / "other", DEAD)),
        started("not ours at all"),
    ]
    assert runs.end_orphans(tmp_path) == 1
    assert [look(process.pid) is None for process in helper] == [True, False, False, False]


def test_a_process_of_the_same_number_does_not_count_as_the_run(
    tmp_path: Path, helper: list[subprocess.Popen[str]]
) -> None:
    helper.append(started(value(tmp_path, Process(os.getpid(), 1, boot_id()))))
    assert runs.end_orphans(tmp_path) == 1


def test_what_a_run_starts_carries_its_mark_and_a_run_within_a_run_is_none_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(RUN, raising=False)
    runs.begin(tmp_path)
    outer = os.environ[RUN]
    assert json.loads(outer)["pid"] == os.getpid()
    assert runs.mark() == {RUN: outer}
    runs.begin(tmp_path / "other")
    assert os.environ[RUN] == outer


def test_a_cluster_belongs_to_the_run_that_brought_it_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, run in (("ours", "this"), ("theirs", "another")):
        names = Names(name, tmp_path)
        names.state.mkdir(parents=True)
        monkeypatch.setenv(RUN, run)
        runs.claim(names)
    (tmp_path / ".cluster" / "by-hand").mkdir()
    monkeypatch.setenv(RUN, "this")
    assert runs.claimed(tmp_path) == ["ours"]


def test_what_could_not_be_made_belongs_to_nobody(tmp_path: Path) -> None:
    runs.claim(Names("never", tmp_path))
    assert runs.claimed(tmp_path) == []
