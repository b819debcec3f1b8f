"""How large a batch is taken, from how long batches take."""

import pytest

from moorage_server import calibration
from moorage_server.memory import keep_freed


class Machine:
    """A model whose batches take as long as is told, by a clock of its own."""

    def __init__(self, seconds_of_rows) -> None:  # type: ignore[no-untyped-def]
        self.now, self.runs, self._seconds = 0.0, [], seconds_of_rows

    def run(self, rows: int) -> None:
        self.runs.append(rows)
        self.now += self._seconds(rows)

    def measure(self, low: int, high: int) -> dict[int, float]:
        return calibration.measure(self.run, low, high, lambda: self.now)


def test_sizes_between_the_smallest_and_the_largest() -> None:
    assert list(Machine(lambda rows: 1e-5).measure(1, 64)) == [1, 2, 4, 8, 16, 32, 64]
    assert list(Machine(lambda rows: 1e-5).measure(3, 20)) == [3, 4, 8, 16, 20]
    assert list(Machine(lambda rows: 1e-5).measure(1, 1)) == [1]


@pytest.mark.parametrize(
    ("seconds", "size"),
    [
        (lambda rows: 1e-4 + rows * 1e-6, 64),  # the larger the better
        (lambda rows: rows * 4e-3, 1),  # no size is faster than another: nobody waits for others
        (lambda rows: rows * (1e-3 if rows <= 16 else 2e-3), 2),  # out of the cache at 32; 2 are within 5 % of 16
    ],
)
def test_the_smallest_that_is_about_as_fast_as_any(seconds, size: int) -> None:  # type: ignore[no-untyped-def]
    assert calibration.best(Machine(seconds).measure(1, 64), 64) == size


def test_a_slow_model_does_not_wait_for_all_sizes() -> None:
    machine = Machine(lambda rows: 0.3)
    seconds = machine.measure(1, 1024)
    assert machine.now < 2 * calibration.SECONDS
    assert calibration.best(seconds, 1024) == 1024, "nobody knows better"
    assert calibration.best({}, 64) == 64


def served(size: calibration.BatchSize, seconds, waiting: int, batches: int) -> list[int]:  # type: ignore[no-untyped-def]
    """The sizes of so many batches."""
    taken = []
    for _ in range(batches):
        taken.append(min(size.next(waiting), waiting))
        size.ran(taken[-1], seconds(taken[-1]))
    return taken


def test_a_bad_moment_before_it_served_is_forgotten_under_load() -> None:
    size = calibration.BatchSize(1, 64, {rows: rows * 1e-2 for rows in calibration.sizes(1, 64)})
    assert size.now == 1
    served(size, lambda rows: 1e-4 + rows * 1e-6, 64, 3000)
    assert size.now == 64


def test_it_finds_where_larger_is_no_faster() -> None:
    def slow_beyond(rows: int) -> float:
        return 1e-3 + rows * (1e-3 if rows <= 16 else 2e-3)

    size = calibration.BatchSize(1, 64, {})
    assert size.now == 64
    taken = served(size, slow_beyond, 200, 4000)
    assert size.now == 16
    assert set(taken[-1000:]) == {8, 16, 32}
    assert taken[-1000:].count(16) > 960, "trials are rare"


def test_steps_that_cost_little_do_not_add_up() -> None:
    size = calibration.BatchSize(1, 64, {})
    served(size, lambda rows: rows * 1e-2 * 1.04 ** (6 - rows.bit_length() + 1), 64, 20000)
    assert size.now == 32


def test_sizes_that_are_no_more_are_not_asked_for() -> None:
    assert calibration.BatchSize(1, 1, {1: 1e-3, 64: 1e-3}).now == 1


def test_what_was_slow_once_does_not_count() -> None:
    size, slow = calibration.BatchSize(1, 64, {}), iter(range(100_000))
    served(size, lambda rows: (1e-4 + rows * 1e-5) * (10 if next(slow) % 3 else 1), 64, 5000)
    assert size.now == 64


def test_no_larger_batch_is_tried_than_waits() -> None:
    size = calibration.BatchSize(1, 64, {rows: rows * 1e-2 for rows in calibration.sizes(1, 64)})
    assert max(served(size, lambda rows: 1e-4, 3, 3000)) == 2


def test_batches_that_are_not_full_teach_nothing() -> None:
    size = calibration.BatchSize(1, 64, {})
    served(size, lambda rows: rows * 1e-3, 10, 3000)
    assert size.now == 64


def test_the_allocator_is_told_and_does_not_mind_being_told_again() -> None:
    keep_freed()
    keep_freed()
