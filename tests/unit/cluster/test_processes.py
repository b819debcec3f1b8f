"""Programs are found and ended by what they are, never by a number alone."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.interface import ClusterError
from cluster.processes import MARK, RUN, Process, Programs, boot_id, end, look

SLEEP = ["sleep", "100"]


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    found = Programs(tmp_path)
    yield found
    found.stop_all()


def test_a_program_outlives_its_starter_and_is_found_by_the_next_one(programs: Programs, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from cluster.processes import Programs;"
        f"Programs(Path({str(tmp_path)!r})).start('sleeper', {SLEEP!r})"
    )
    folder = Path(__file__).parents[2]
    subprocess.run(
        [sys.executable, "-c", script], check=True, env={**os.environ, "PYTHONPATH": str(folder)}, timeout=240
    )
    process = programs.get("sleeper")
    assert process and process.alive
    programs.stop("sleeper")
    assert not process.alive
    assert programs.names() == []


def test_starting_what_runs_changes_nothing(programs: Programs) -> None:
    assert programs.start("sleeper", SLEEP) == programs.start("sleeper", SLEEP)


def test_output_goes_to_the_log(programs: Programs) -> None:
    process = programs.start("talker", ["sh", "-c", "echo out; echo err >&2"])
    deadline = time.monotonic() + 60
    while process.alive and time.monotonic() < deadline:
        time.sleep(0.01)
    assert programs.log("talker").read_text() == "out\nerr\n"


def test_another_process_of_the_same_number_is_left_alone(programs: Programs, tmp_path: Path) -> None:
    with subprocess.Popen(SLEEP) as innocent:
        note = tmp_path / "pid" / "old.json"
        note.parent.mkdir(exist_ok=True)
        note.write_text(json.dumps({"pid": innocent.pid, "started": 1, "boot": boot_id()}))
        assert programs.get("old") is None
        programs.stop("old")
        assert innocent.poll() is None
        innocent.kill()


def test_a_number_from_before_a_reboot_means_nothing(programs: Programs, tmp_path: Path) -> None:
    with subprocess.Popen(SLEEP) as innocent:
        now = look(innocent.pid)
        assert now
        assert not Process(now.pid, now.started, "another boot").alive
        innocent.kill()


def test_one_that_has_ended_but_was_not_reaped_does_not_run(programs: Programs) -> None:
    child = subprocess.Popen(["true"])
    deadline = time.monotonic() + 60
    while look(child.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert Path(f"/proc/{child.pid}").exists(), "it is still in the process table"
    assert look(child.pid) is None
    child.wait()


def test_one_that_ignores_the_polite_signal_is_killed(programs: Programs) -> None:
    process = programs.start("stubborn", ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"])
    deadline = time.monotonic() + 60
    while "ready" not in programs.log("stubborn").read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    end(process, signal.SIGTERM, timeout=0.3)
    assert not process.alive


def test_what_a_killed_run_started_without_a_note_is_found_by_its_mark(programs: Programs, tmp_path: Path) -> None:
    with (
        subprocess.Popen(SLEEP, env={**os.environ, MARK: str(tmp_path)}) as stray,
        subprocess.Popen(SLEEP, env={**os.environ, MARK: str(tmp_path / "other")}) as neighbour,
    ):
        while Path(f"/proc/{stray.pid}/comm").read_text() != "sleep\n":  # it has its environment only after the exec
            time.sleep(0.01)
        programs.stop_all()
        assert look(stray.pid) is None
        assert neighbour.poll() is None
        neighbour.kill()


def test_a_note_cut_off_by_a_crash_counts_as_none(programs: Programs, tmp_path: Path) -> None:
    (tmp_path / "pid").mkdir(exist_ok=True)
    (tmp_path / "pid" / "half.json").write_text('{"pid": 1')
    assert programs.get("half") is None


def test_one_that_has_died_is_named_with_its_last_words(programs: Programs) -> None:
    programs.start("sleeper", SLEEP)
    process = programs.start("etcd", ["sh", "-c", "echo no space left on device; exit 1"])
    wait_for_end(process)
    programs.check(["sleeper", "never-started"])
    with pytest.raises(ClusterError, match=r"etcd has ended. Its last words:\n  no space left on device"):
        programs.check(["sleeper", "etcd"])


def test_one_that_was_stopped_is_not_missed(programs: Programs) -> None:
    programs.start("sleeper", SLEEP)
    programs.stop("sleeper")
    programs.check(["sleeper"])


def test_a_program_of_the_cluster_is_no_helper_of_the_run_that_started_it(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RUN, "a run")
    process = programs.start("sleeper", SLEEP)
    while Path(f"/proc/{process.pid}/comm").read_text() != "sleep\n":
        time.sleep(0.01)
    assert f"{RUN}=".encode() not in Path(f"/proc/{process.pid}/environ").read_bytes()


def wait_for_end(process: Process) -> None:
    deadline = time.monotonic() + 60
    while process.alive and time.monotonic() < deadline:
        time.sleep(0.01)
