"""How large a batch should be: the model's speed at each size that may come, measured once before it serves.

Larger is not always faster. On a processor activations outgrow the caches; the same rows in smaller batches then take
less time, and each request waits for fewer others.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial

SECONDS = 1.0
"""For all measurements together: after it the sizes that are left are not looked at."""

_AROUND = 1e-4  # seconds that a batch costs around its forward pass: queue, thread, putting together and taking apart
_AS_FAST = 0.95


def measure(
    run: Callable[[int], object], low: int, high: int, clock: Callable[[], float] = time.perf_counter
) -> dict[int, float]:
    """Seconds of a forward pass by its rows, for powers of two between the bounds and the bounds themselves."""
    begin, seconds = clock(), {}
    for rows in sorted({low, high, *(1 << power for power in range(high.bit_length()) if low < 1 << power < high)}):
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
