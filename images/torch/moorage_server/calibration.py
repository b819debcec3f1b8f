"""How large a batch should be: the model's speed at each size that may come, measured before it serves and while it
does.

Larger is not always faster. On a processor activations outgrow the caches; the same rows in smaller batches then take
less time, and each request waits for fewer others. What was measured before may have been a bad moment of the machine.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial

SECONDS = 1.0
"""For all measurements together: after it the sizes that are left are not looked at."""

_AROUND = 1e-4  # seconds that a batch costs around its forward pass: queue, thread, putting together and taking apart
_AS_FAST = 0.95
_TRIAL = 32  # of so many batches one is of another size
_RUNS = 5  # of a size before anything is made of them
_KEPT = 16


class BatchSize:
    """How many rows go through the model together: the smallest size that is about as fast as any.

    Under load a batch is now and then of the next larger or smaller size, and where that is better, it stays.
    """

    def __init__(self, low: int, high: int, seconds: Mapping[int, float]) -> None:
        """`seconds`: what was measured before, of a batch by its rows."""
        self._sizes = sizes(low, high)
        known = {rows: seconds[rows] for rows in self._sizes if rows in seconds}
        self._at = self._trial = self._sizes.index(best(known, high))
        self._runs: list[deque[float]] = [deque(maxlen=_KEPT) for _ in self._sizes]  # seconds of a row
        self._count = 0

    @property
    def now(self) -> int:
        return self._sizes[self._at]

    def next(self, waiting: int) -> int:
        """Rows that the next batch may have, of those that wait."""
        self._trial = self._at
        self._count += 1
        if self._count % _TRIAL == 0:
            other = self._at + (1 if self._count % (2 * _TRIAL) else -1)
            if 0 <= other < len(self._sizes) and self._sizes[other] <= waiting:
                self._trial = other
        return self._sizes[self._trial]

    def ran(self, rows: int, seconds: float) -> None:
        """The batch that `next` was asked for."""
        size = self._sizes[self._trial]
        if not _AS_FAST * size <= rows <= size:  # it was not full
            return
        tried, mine = self._runs[self._trial], self._runs[self._at]
        tried.append((seconds + _AROUND) / rows)
        if self._trial == self._at or len(tried) < _RUNS or len(mine) < _RUNS:
            return
        # The best of each: what a machine does besides makes runs longer and never shorter.
        if self._trial > self._at:
            better = min(tried) < min(mine) * _AS_FAST
        else:  # about as fast as any, not only as its neighbour: a few percent with each step are many
            better = min(tried) * _AS_FAST <= min(min(runs) for runs in self._runs if runs)
        if better:
            self._at = self._trial


def sizes(low: int, high: int) -> list[int]:
    """Powers of two between the bounds, and the bounds themselves."""
    return sorted({low, high, *(1 << power for power in range(high.bit_length()) if low < 1 << power < high)})


def measure(
    run: Callable[[int], object], low: int, high: int, clock: Callable[[], float] = time.perf_counter
) -> dict[int, float]:
    """Seconds of a forward pass by its rows."""
    begin, seconds = clock(), {}
    for rows in sizes(low, high):
        if clock() - begin > SECONDS:
            break
        seconds[rows] = shortest(partial(run, rows), clock)
    return seconds


def shortest(run: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of the best of up to three runs, after one that does what is done only once."""
    run()
    times: list[float] = []
    while len(times) < 3 and sum(times) < SECONDS / 20:
        start = clock()
        run()
        times.append(clock() - start)
    return min(times)


def best(seconds: Mapping[int, float], high: int) -> int:
    """The smallest batch that is about as fast as any; `high` where not all were measured."""
    if high not in seconds:
        return high
    speeds = {rows: rows / (taken + _AROUND) for rows, taken in sorted(seconds.items())}
    enough = _AS_FAST * max(speeds.values())
    return next(rows for rows, speed in speeds.items() if speed >= enough)
