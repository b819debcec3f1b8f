"""docs/operations.md has a row for every reason a condition can have, and none for one that there is not."""

import re
from pathlib import Path

import pytest

from reference.reasons import OPERATOR, all_reasons, in_source

PAGE = (Path(__file__).parents[2] / "docs/operations.md").read_text()


def rows() -> set[str]:
    part = PAGE[PAGE.index("## What is wrong?") : PAGE.index("## Alerts")]
    return {reason for line in re.findall(r"^\| (`.*?) \|", part, re.M) for reason in re.findall(r"`(\w+)`", line)}


def test_every_reason_has_a_row() -> None:
    assert all_reasons() - rows() == set()


def test_every_row_is_of_a_reason_that_exists() -> None:
    assert rows() - all_reasons() == set()


@pytest.mark.parametrize(
    ("code", "reasons"),
    [
        ('Problem("One", text)', {"One"}),
        ('Finding("Environment", "Two", words, pod)', {"Two"}),
        ('InvalidSpec(words, reason="Three")', {"Three"}),
        ('def f(words, reason="Four"): ...', {"Four"}),
        ('state = ("True", "Five", f"{n} replicas")', {"Five"}),
        ('def f(): return ("False" if bad else "True"), "Six", "words"', {"Six"}),
        ('reason = "Seven" if policy == "Never" else known or "Eight"', {"Seven", "Eight"}),
        ('reason, message = (worst.reason, "x") if worst else ("Nine", "words")', {"Nine"}),
        (
            '_T = {"a": "Thing"}\nkind = f"{_T[x]}NotFound" if x else "Ten"\nfinding(kind, words)',
            {"ThingNotFound", "Ten"},
        ),
        ('_T = {"a": "Eleven"}\nFinding("Waiting", _T[x], words)', {"Eleven"}),
        ('log.info("Something", name="Else")', set()),
        ('status: Literal["True", "False", "Unknown"]', set()),
    ],
)
def test_reasons_are_found_in_source(code: str, reasons: set[str]) -> None:
    assert in_source(code) == reasons


def test_the_operator_s_own_files_are_read() -> None:
    assert "CrashLoop" in in_source((OPERATOR / "status/pods.py").read_text())
