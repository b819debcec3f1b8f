"""A failing program is told in its own words, and nothing waits for ever."""

import pytest

from cluster.commands import run, until, watched
from cluster.interface import ClusterError


def test_output_comes_back() -> None:
    assert run("cat", input="text") == "text"


def test_failure_carries_the_program_s_words_and_the_command() -> None:
    with pytest.raises(ClusterError, match=r"no such thing\n  in: sh -c"):
        run("sh", "-c", "echo no such thing >&2; exit 3")


def test_a_program_that_hangs_is_ended() -> None:
    with pytest.raises(ClusterError, match="did not end within 0 s"):
        run("sleep", "100", timeout=0.1)


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(ClusterError, match="no-such-program is not installed"):
        run("no-such-program")


def test_nothing_is_read_from_the_terminal() -> None:
    assert run("cat") == ""


def test_waiting_tells_the_last_error() -> None:
    def check() -> bool:
        raise ClusterError("connection refused")

    with pytest.raises(ClusterError, match="the server answers: not within 0 s: connection refused"):
        until("the server answers", check, timeout=0.05, interval=0.01)


def test_waiting_ends_when_the_check_holds() -> None:
    answers = iter([False, False, True])
    until("it", lambda: next(answers), timeout=10, interval=0)


def test_waiting_ends_early_when_what_is_waited_for_can_come_no_more() -> None:
    def gone() -> None:
        raise ClusterError("etcd has ended")

    with watched(gone), pytest.raises(ClusterError, match="etcd has ended"):
        until("the server answers", lambda: False, timeout=600)
    with pytest.raises(ClusterError, match="not within 0 s"):  # after the block nobody watches
        until("the server answers", lambda: False, timeout=0.01)
