"""Progress says each step with its time, is never silent for long, and keeps nested steps apart."""

import io
import re
import threading

import pytest

from cluster.progress import Progress, duration


def test_a_step_is_said_with_its_time_when_it_ends() -> None:
    said = io.StringIO()
    with Progress(said).step("nodes"):
        assert said.getvalue() == ""
    assert re.fullmatch(r"✓ nodes \(\d+\.\d s\)\n", said.getvalue())


def test_a_step_that_fails_says_so_and_lets_the_error_through() -> None:
    said = io.StringIO()
    with pytest.raises(RuntimeError), Progress(said).step("nodes"):
        raise RuntimeError
    assert said.getvalue().startswith("✗ nodes")


def test_steps_within_steps_are_indented() -> None:
    said = io.StringIO()
    progress = Progress(said)
    with progress.step("outer"):
        progress.note("a note")
        with progress.step("inner"):
            pass
    lines = [line.split(" (")[0] for line in said.getvalue().splitlines()]
    assert lines == ["  a note", "  ✓ inner", "✓ outer"]


def test_a_long_step_is_heard_of_with_what_it_is_at() -> None:
    heard = threading.Event()

    class Listening(io.StringIO):
        def write(self, text: str) -> int:
            if "… building" in text and "STEP 3" in text:
                heard.set()
            return super().write(text)

    said = Listening()
    progress = Progress(said, heartbeat=0.01)
    with progress.step("outer"), progress.step("building"):
        progress.detail("STEP 3\n of 7")
        assert heard.wait(10)
    assert "… outer" not in said.getvalue(), "only the innermost step speaks"


def test_markup_in_titles_is_text() -> None:
    said = io.StringIO()
    with Progress(said).step("[bold]x[/bold]"):
        pass
    assert "[bold]x[/bold]" in said.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.9, "59.9 s"), (61, "1 min 1 s"), (725, "12 min 5 s")]
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text
