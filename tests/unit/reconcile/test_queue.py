"""The work queue's promises: once, never twice at the same time, later when asked."""

import asyncio
from collections.abc import Callable

import pytest

from moorage.kube.kinds import Key
from moorage.reconcile.queue import AT_MOST, EACH, MAX_DELAY, TOGETHER, WorkQueue

A, B = Key("ModelDeployment", "ns", "a"), Key("ModelDeployment", "ns", "b")


class Time:
    """A loop's clock and timers, moved by hand."""

    class Handle:
        def __init__(self, when: float, call: Callable[[], None]) -> None:
            self.when, self.call, self.cancelled = when, call, False

        def cancel(self) -> None:
            self.cancelled = True

    def __init__(self) -> None:
        self.now = 0.0
        self._timers: list[Time.Handle] = []

    def call_later(self, delay: float, call: Callable[[], None]) -> "Time.Handle":
        handle = Time.Handle(self.now + delay, call)
        self._timers.append(handle)
        return handle

    def move(self, seconds: float) -> None:
        self.now += seconds
        due = [timer for timer in self._timers if timer.when <= self.now and not timer.cancelled]
        self._timers = [timer for timer in self._timers if timer not in due]
        for timer in due:
            timer.call()


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def queue(time: Time) -> WorkQueue:
    return WorkQueue(call_later=time.call_later, clock=lambda: time.now, jitter=lambda: 0.5)


async def test_a_hundred_changes_are_one_piece_of_work(queue: WorkQueue) -> None:
    for _ in range(100):
        queue.add(A)
    assert len(queue) == 1


async def test_work_comes_in_the_order_it_was_added(queue: WorkQueue) -> None:
    queue.add(A)
    queue.add(B)
    assert [await queue.get(), await queue.get()] == [A, B]


async def test_a_key_is_never_worked_on_twice_at_the_same_time(queue: WorkQueue) -> None:
    queue.add(A)
    await queue.get()
    queue.add(A)
    assert len(queue) == 0
    queue.done(A)
    assert await queue.get() == A


async def test_a_change_during_work_is_not_lost_and_comes_once(queue: WorkQueue) -> None:
    queue.add(A)
    await queue.get()
    queue.add(A)
    queue.add(A)
    queue.done(A)
    assert len(queue) == 1


async def test_a_waiting_worker_is_woken(queue: WorkQueue) -> None:
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add(A)
    assert await asyncio.wait_for(waiting, 5) == A


async def test_all_waiting_workers_get_their_share(queue: WorkQueue) -> None:
    waiting = [asyncio.create_task(queue.get()) for _ in range(2)]
    await asyncio.sleep(0)
    queue.add(A)
    queue.add(B)
    assert set(await asyncio.wait_for(asyncio.gather(*waiting), 5)) == {A, B}


async def test_later_is_later_and_the_earlier_time_wins(queue: WorkQueue, time: Time) -> None:
    queue.add_after(A, 10)
    queue.add_after(A, 5)
    queue.add_after(A, 20)
    time.move(4)
    assert len(queue) == 0
    time.move(1)
    assert len(queue) == 1
    await queue.get()
    queue.done(A)
    time.move(100)
    assert len(queue) == 0


async def test_news_in_pieces_is_one_piece_of_work_in_a_moment(queue: WorkQueue, time: Time) -> None:
    queue.add_soon(A)
    time.move(TOGETHER / 2)
    queue.add_soon(A)
    assert len(queue) == 0
    time.move(TOGETHER / 2)
    assert len(queue) == 1


async def test_the_more_keys_have_news_the_longer_it_is_collected(queue: WorkQueue, time: Time) -> None:
    keys = [Key("ModelDeployment", "ns", str(number)) for number in range(1000)]
    for key in keys:
        queue.add_soon(key)
    time.move(TOGETHER + 50 * EACH)
    assert 50 <= len(queue) <= 52
    for key in keys[500:]:
        queue.add_soon(key)
    time.move(AT_MOST)
    assert len(queue) == 1000, "but not for ever"


async def test_failures_in_a_row_wait_longer_and_longer(queue: WorkQueue) -> None:
    delays = [queue.retry(A) for _ in range(20)]
    assert delays == sorted(delays)
    assert delays[1] == pytest.approx(2 * delays[0])
    assert MAX_DELAY <= delays[-1] <= 1.2 * MAX_DELAY


async def test_success_forgets_the_failures(queue: WorkQueue) -> None:
    first = queue.retry(A)
    queue.retry(A)
    queue.forget(A)
    assert queue.retry(A) == first


async def test_a_server_that_names_a_time_is_obeyed(queue: WorkQueue) -> None:
    assert queue.retry(A, at_least=30) == 30
