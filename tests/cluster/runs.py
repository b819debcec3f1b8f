"""What belongs to a run (of pytest, of `python -m cluster`): the clusters it brought up, and the processes it started.

Each run marks the environment of all that it starts with itself. A process whose run has ended (a server, an operator,
a build, a worker of a test run that was killed) is nobody's any more, and `down` ends it. The programs of a cluster do
not carry this mark: they are to stay.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from cluster.names import CHECKOUT, Names
from cluster.processes import RUN, Process, carrying, end_all, look


def begin(checkout: Path = CHECKOUT) -> None:
    """From here on, what this process starts belongs to it; unless it is itself a part of a run."""
    itself = look(os.getpid())
    if itself:
        os.environ.setdefault(RUN, json.dumps({"checkout": str(checkout), **asdict(itself)}))


def mark() -> dict[str, str]:
    """For those who start something with an environment of its own."""
    return {RUN: os.environ[RUN]} if RUN in os.environ else {}


def claim(names: Names) -> None:
    """The cluster was brought up by this run, in whichever of its processes."""
    if names.state.is_dir():
        (names.state / "run").write_text(os.environ.get(RUN, ""))


def claimed(checkout: Path = CHECKOUT) -> list[str]:
    """The clusters that this run brought up."""
    notes = (checkout / ".cluster").glob("*/run")
    return sorted(note.parent.name for note in notes if note.read_text() == os.environ.get(RUN))


def orphans(checkout: Path = CHECKOUT) -> Iterator[Process]:
    for process, value in carrying(RUN):
        try:
            run = json.loads(value)
            mine = run.pop("checkout") == str(checkout)
            ended = not Process(**run).alive
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
        if mine and ended:
            yield process


def end_orphans(checkout: Path = CHECKOUT) -> int:
    found = list(orphans(checkout))
    end_all(found)
    return len(found)
