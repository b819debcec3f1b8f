"""Shows what is being done and for how long: a live line on a terminal, plain lines anywhere else (logs, CI)."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console

# A log that is silent for longer than this looks hung.
HEARTBEAT_SECONDS = 30.0
LIVE_SECONDS = 0.5
DETAIL_CHARACTERS = 80


def duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds // 60)} min {int(seconds % 60)} s"


class Progress:
    """Steps may nest; each says its title when it ends, with the time it took."""

    def __init__(self, file: TextIO | None = None, heartbeat: float = HEARTBEAT_SECONDS) -> None:
        self._console = Console(file=file or sys.stderr, highlight=False, markup=False, soft_wrap=True)
        self._heartbeat = heartbeat
        self._depth = 0
        self._detail = ""

    def note(self, text: str) -> None:
        self._say(text)

    def detail(self, text: str) -> None:
        """What the running step is at: shown for the moment, kept nowhere."""
        self._detail = " ".join(text.split())[:DETAIL_CHARACTERS]

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        start = time.monotonic()

        def elapsed() -> str:
            return f"{title} ({duration(time.monotonic() - start)})"

        self._detail = ""
        self._depth += 1
        try:
            with self._show(elapsed, self._depth):
                yield
        except BaseException:
            self._depth -= 1
            self._say(f"✗ {elapsed()}")
            raise
        self._depth -= 1
        self._say(f"✓ {elapsed()}")

    def _say(self, text: str) -> None:
        self._console.print(f"{'  ' * self._depth}{text}")

    @contextmanager
    def _show(self, elapsed: Callable[[], str], depth: int) -> Iterator[None]:
        def now() -> str:
            return f"{elapsed()} {self._detail}".rstrip()

        def beat() -> None:
            if self._depth == depth:  # the innermost step says enough
                self._say(f"… {now()}")

        if not self._console.is_terminal:
            with repeatedly(self._heartbeat, beat):
                yield
        elif depth == 1:  # a terminal has room for one live line: the outermost step's
            with (
                self._console.status(now()) as status,
                repeatedly(LIVE_SECONDS, lambda: status.update(now())),
            ):
                yield
        else:
            yield


@contextmanager
def repeatedly(interval: float, call: Callable[[], None]) -> Iterator[None]:
    """Calls again and again, from a thread of its own, until the block ends."""
    done = threading.Event()

    def run() -> None:
        while not done.wait(interval):
            call()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
