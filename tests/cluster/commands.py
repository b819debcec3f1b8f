"""Runs other programs, bounded in time, and turns their failure into their own words."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from cluster.interface import ClusterError

_watch: ContextVar[Callable[[], None] | None] = ContextVar("watch", default=None)


def run(*argv: str | Path, input: str | None = None, timeout: float = 60, env: Mapping[str, str] | None = None) -> str:
    """The program's output."""
    command = [str(part) for part in argv]
    try:
        done = subprocess.run(
            command, input=input, timeout=timeout, env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL if input is None else None, capture_output=True, text=True, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ClusterError(f"{words(command)} did not end within {timeout:.0f} s") from None
    except FileNotFoundError:
        raise ClusterError(f"{command[0]} is not installed") from None
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip() or f"exit {done.returncode}"
        raise ClusterError(f"{said}\n  in: {words(command)}")
    return done.stdout


def words(command: Sequence[str], limit: int = 160) -> str:
    line = " ".join([Path(command[0]).name, *command[1:]])
    return line if len(line) <= limit else line[:limit] + "…"


@contextmanager
def watched(watch: Callable[[], None]) -> Iterator[None]:
    """In this block every `until` also calls `watch`, which raises when what is waited for can come no more."""
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)


def until(what: str, check: Callable[[], bool], timeout: float, interval: float = 0.1) -> None:
    """Waits until the check holds. An error that the check raises counts as "not yet" and is told at the end."""
    deadline, last = time.monotonic() + timeout, ""
    watch = _watch.get()
    while True:
        try:
            if check():
                return
            last = ""
        except (ClusterError, OSError) as error:
            last = f": {error}"
        if watch:
            watch()
        if time.monotonic() > deadline:
            raise ClusterError(f"{what}: not within {timeout:.0f} s{last}")
        time.sleep(interval)
