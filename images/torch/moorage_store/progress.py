"""Lines that say how far a transfer is: at most one a second, because they end in a pod's log."""

import time


class Progress:
    def __init__(self, what: str) -> None:
        self.what = what
        self.total: int | None = None
        self.done = 0

    def begin(self, total: int, done: int = 0) -> None:
        """`done` is what an earlier try has left behind."""
        self.total, self.done, self._before = total, done, done
        self._start = self._last = time.monotonic()
        if done:
            self._print("going on")

    def add(self, size: int) -> None:
        self.done += size
        now = time.monotonic()
        if now - self._last >= 1:
            self._last = now
            self._print(f"{_megabytes(self._rate(now))}/s")

    @property
    def copied(self) -> int:
        """Bytes of this try."""
        return self.done - self._before if self.total is not None else 0

    def restart(self, size: int) -> None:
        """Takes back what was counted and turned out to be of no use."""
        self.done -= size
        self._before = min(self._before, self.done)

    def finish(self) -> None:
        now = time.monotonic()
        seconds = now - self._start
        print(f"{self.what}: {_megabytes(self.done)} in {seconds:.1f} s, {_megabytes(self._rate(now))}/s", flush=True)

    def _rate(self, now: float) -> float:
        return self.copied / max(now - self._start, 1e-3)

    def _print(self, words: str) -> None:
        percent = 100 * self.done // (self.total or 1)
        print(f"{self.what}: {percent}% of {_megabytes(self.total or 0)}, {words}", flush=True)


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.1f} MB"
