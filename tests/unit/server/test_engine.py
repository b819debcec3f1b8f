"""Batches: who goes together, who waits, and that everyone gets their own rows back."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from moorage_server.engine import Engine, ModelFailed, QueueFull, Result, Stopped, TimedOut
from moorage_server.failures import DeviceLost
from moorage_server.signature import Array, Dim, Signature, TensorSpec

BATCH = Dim(-1, "batch")
FREE = Signature((TensorSpec("x", "FP32", (BATCH, Dim(-1))),), (TensorSpec("y", "FP32", (BATCH, Dim(-1))),))
STATIC = Signature((TensorSpec("x", "FP32", (Dim(2),)),), (TensorSpec("y", "FP32", (Dim(2),)),))


class Doubling:
    """Doubles its input; waits for `gate` first, and remembers the rows of each batch."""

    inline = True

    def __init__(self, signature: Signature = FREE, fail: Callable[[Array], Exception | None] = lambda x: None) -> None:
        self.signature = signature
        self.batches: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self._fail = fail

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        assert self.gate.wait(20)
        self.batches.append(len(inputs[0]))
        if error := self._fail(inputs[0]):
            raise error
        return [inputs[0] * 2]


@asynccontextmanager
async def running(model: Doubling, **options: Any) -> AsyncIterator[Engine]:
    with ThreadPoolExecutor(1) as thread:
        engine = Engine(model, thread, **options)
        try:
            yield engine
        finally:
            model.gate.set()


def rows(*values: float, width: int = 2) -> list[Array]:
    return [np.repeat(np.float32(values), width).reshape(len(values), width)]


async def infer(engine: Engine, inputs: list[Array], count: int, *policy: float) -> list[Array]:
    answer: asyncio.Future[list[Array]] = asyncio.get_running_loop().create_future()

    def done(result: Result) -> None:
        if isinstance(result, Exception):
            answer.set_exception(result)
        else:
            answer.set_result(result)

    job = engine.submit(inputs, count, done, *policy)  # type: ignore[arg-type]
    try:
        return await answer
    except asyncio.CancelledError:
        engine.cancel(job)
        raise


async def ask(engine: Engine, *values: float, width: int = 2) -> list[float]:
    output = (await infer(engine, rows(*values, width=width), len(values)))[0]
    assert output.shape == (len(values), width)
    return [float(value) for value in output[:, 0]]


async def waiting(engine: Engine, count: int) -> None:
    async with asyncio.timeout(120):
        while engine.queue_size != count:  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_what_arrives_while_a_batch_runs_is_the_next_batch() -> None:
    model = Doubling()
    model.gate.clear()
    async with running(model) as engine:
        first = asyncio.create_task(ask(engine, 0))
        await asyncio.sleep(0.05)
        others = [asyncio.create_task(ask(engine, i, i + 0.5)) for i in range(1, 11)]
        await waiting(engine, 10)
        model.gate.set()
        assert await first == [0]
        assert await asyncio.gather(*others) == [[2 * i, 2 * i + 1] for i in range(1, 11)]
    assert model.batches == [1, 20]


async def test_the_lowest_priority_goes_first_and_the_others_in_their_order() -> None:
    model = Doubling()
    model.gate.clear()
    order: list[float] = []

    async def one(value: float, priority: int) -> None:
        await infer(engine, rows(value), 1, priority)
        order.append(value)

    async with running(model, max_batch_size=1) as engine, asyncio.TaskGroup() as group:
        group.create_task(one(0, 5))
        await asyncio.sleep(0.05)
        for value, priority in ((1, 9), (2, 5), (3, 1), (4, 5), (5, 1)):
            group.create_task(one(value, priority))
        await waiting(engine, 5)
        model.gate.set()
    assert order == [0, 3, 5, 2, 4, 1]


async def test_who_has_waited_too_long_is_told_and_costs_no_pass() -> None:
    model = Doubling()
    model.gate.clear()
    async with running(model) as engine:
        first = asyncio.create_task(ask(engine, 0))
        await asyncio.sleep(0.05)
        late = asyncio.create_task(infer(engine, rows(1), 1, 5, 0.01))
        patient = asyncio.create_task(infer(engine, rows(2), 1, 5, 60))
        await waiting(engine, 2)
        await asyncio.sleep(0.05)
        model.gate.set()
        with pytest.raises(TimedOut):
            await late
        assert (await first, [float(v) for v in (await patient)[0][:, 0]]) == ([0], [4])
        assert engine.queue_size == 0
    assert model.batches == [1, 1]


async def test_a_timeout_comes_in_its_time_whatever_goes_before() -> None:
    model = Doubling()
    model.gate.clear()
    async with running(model, max_batch_size=1) as engine:
        running_one = asyncio.create_task(ask(engine, 0))
        await asyncio.sleep(0.05)
        with pytest.raises(TimedOut):
            await infer(engine, rows(1), 1, 9, 0.01)  # while that one still runs
        assert engine.queue_size == 0
        model.gate.set()
        await running_one


async def test_who_has_less_time_than_a_batch_may_wait_is_served_in_it() -> None:
    model = Doubling()
    async with running(model, max_batch_size=64, max_delay=60) as engine, asyncio.timeout(50):
        await infer(engine, rows(1), 1, 5, 20)


async def test_a_job_that_runs_can_be_given_up_after_the_end() -> None:
    model = Doubling()
    model.gate.clear()
    async with running(model) as engine:
        job = engine.submit(rows(1), 1, lambda _: None)
        await waiting(engine, 0)
        engine.stop()
        engine.cancel(job)


async def test_no_part_of_a_large_request_is_smaller_than_the_model_takes() -> None:
    pair = Dim(-1, "batch", low=2)
    model = Doubling(
        Signature((TensorSpec("x", "FP32", (pair, Dim(-1))),), (TensorSpec("y", "FP32", (pair, Dim(-1))),))
    )
    async with running(model, max_batch_size=2) as engine:
        assert await ask(engine, 1, 2, 3) == [2, 4, 6]
        assert await ask(engine, 1, 2, 3, 4, 5) == [2, 4, 6, 8, 10]
    assert model.batches == [3, 2, 3]


async def test_a_batch_has_at_most_so_many_rows() -> None:
    model = Doubling()
    async with running(model, max_batch_size=4) as engine:
        answers = await asyncio.gather(*(ask(engine, i, i) for i in range(9)))
    assert answers == [[2 * i, 2 * i] for i in range(9)]
    assert max(model.batches) == 4


async def test_a_request_larger_than_a_batch_is_split_evenly() -> None:
    model = Doubling()
    observed: list[int] = []
    async with running(model, max_batch_size=4, observe_batch=observed.append) as engine:
        assert await ask(engine, *range(9)) == [2 * i for i in range(9)]
    assert model.batches == observed == [3, 3, 3]


async def test_it_tells_how_long_requests_waited_and_the_model_took() -> None:
    model = Doubling()
    model.gate.clear()
    told: list[tuple[list[float], float]] = []
    async with running(model, observe_run=lambda *ran: told.append(ran)) as engine:
        asked = [asyncio.create_task(ask(engine, 0))]
        await asyncio.sleep(0.05)
        assert engine.oldest() == 0
        asked += [asyncio.create_task(ask(engine, i)) for i in (1, 2)]
        await waiting(engine, 2)
        await asyncio.sleep(0.1)
        assert engine.oldest() >= 0.1
        model.gate.set()
        await asyncio.gather(*asked)
        assert engine.oldest() == 0
    (first, took), (second, _) = told
    assert (len(first), len(second)) == (1, 2)
    assert took >= 0.1 and min(second) >= 0.1


async def test_the_programs_own_limit_on_the_batch_counts() -> None:
    few = Dim(-1, "batch", 1, 2)
    model = Doubling(Signature((TensorSpec("x", "FP32", (few, Dim(2))),), (TensorSpec("y", "FP32", (few, Dim(2))),)))
    async with running(model, max_batch_size=64) as engine:
        await asyncio.gather(*(ask(engine, i) for i in range(6)))
    assert max(model.batches) == 2


async def test_requests_of_other_shapes_wait_their_turn() -> None:
    model = Doubling()
    model.gate.clear()
    async with running(model) as engine:
        first = asyncio.create_task(ask(engine, 0))
        await asyncio.sleep(0.05)
        mixed = [asyncio.create_task(ask(engine, i, width=2 + i % 2)) for i in range(8)]
        await waiting(engine, 8)
        model.gate.set()
        assert await asyncio.gather(first, *mixed) == [[0], *([2 * i] for i in range(8))]
    assert model.batches == [1, 4, 4]


async def test_without_a_batch_dimension_each_goes_alone() -> None:
    model = Doubling(STATIC)
    async with running(model) as engine:
        answers = await asyncio.gather(*(infer(engine, [np.float32([i, i])], 1) for i in range(3)))
    assert [answer[0].tolist() for answer in answers] == [[0, 0], [2, 2], [4, 4]]
    assert len(model.batches) == 3


async def test_a_full_queue_refuses() -> None:
    model = Doubling()
    model.gate.clear()
    async with running(model, max_queue_size=2) as engine:
        first = asyncio.create_task(ask(engine, 0))
        await asyncio.sleep(0.05)
        accepted = [asyncio.create_task(ask(engine, i)) for i in (1, 2)]
        await waiting(engine, 2)
        assert engine.full
        with pytest.raises(QueueFull):
            await ask(engine, 3)
        model.gate.set()
        assert await asyncio.gather(first, *accepted) == [[0], [2], [4]]


async def test_a_request_nobody_waits_for_is_not_run() -> None:
    model = Doubling()
    model.gate.clear()
    async with running(model) as engine:
        first = asyncio.create_task(ask(engine, 0))
        await asyncio.sleep(0.05)
        gone, stays = asyncio.create_task(ask(engine, 1)), asyncio.create_task(ask(engine, 2))
        await waiting(engine, 2)
        gone.cancel()
        await waiting(engine, 1)
        model.gate.set()
        assert [await first, await stays] == [[0], [4]]
    assert model.batches == [1, 1]


async def test_a_delay_gathers_a_batch_and_a_full_one_does_not_wait() -> None:
    model = Doubling()
    async with running(model, max_batch_size=3, max_delay=30) as engine, asyncio.timeout(120):
        tasks = []
        for i in range(3):
            tasks.append(asyncio.create_task(ask(engine, i)))
            await asyncio.sleep(0.02)
        assert await asyncio.gather(*tasks) == [[0], [2], [4]]
    assert model.batches == [3]


async def test_a_delay_ends() -> None:
    model = Doubling()
    async with running(model, max_delay=0.05) as engine, asyncio.timeout(120):
        assert await ask(engine, 1) == [2]


async def test_only_the_guilty_fail() -> None:
    model = Doubling(fail=lambda x: ValueError("no sevens\nmore") if (x == 7).any() else None)
    model.gate.clear()
    async with running(model) as engine:
        first = asyncio.create_task(ask(engine, 0))
        await asyncio.sleep(0.05)
        tasks = [asyncio.create_task(ask(engine, i)) for i in (6, 7, 8)]
        await waiting(engine, 3)
        model.gate.set()
        answers = await asyncio.gather(first, *tasks, return_exceptions=True)
    assert answers[:2] == [[0], [12]] and answers[3] == [16]
    assert isinstance(answers[2], ModelFailed)
    assert str(answers[2]) == "ValueError: no sevens"


async def test_a_model_that_loses_rows_is_caught() -> None:
    class Losing(Doubling):
        def run(self, inputs: Sequence[Array]) -> list[Array]:
            return [inputs[0][:1]]

    async with running(Losing()) as engine:
        with pytest.raises(ModelFailed, match="for 2 rows"):
            await ask(engine, 1, 2)


async def test_a_lost_device_ends_the_engine_and_answers_everyone() -> None:
    model = Doubling(fail=lambda x: DeviceLost("CUDA error"))
    with ThreadPoolExecutor(1) as thread:
        broken: list[BaseException] = []
        engine = Engine(model, thread, on_break=broken.append)
        with pytest.raises(Stopped):
            await ask(engine, 1)
        assert [str(error) for error in broken] == ["CUDA error"]


async def test_stop_gives_up_what_waits() -> None:
    model = Doubling()
    model.gate.clear()
    async with running(model) as engine:
        first = asyncio.create_task(ask(engine, 0))
        await asyncio.sleep(0.05)
        second = asyncio.create_task(ask(engine, 1))
        await waiting(engine, 1)
        engine.stop()
        with pytest.raises(Stopped):
            await second
        with pytest.raises(Stopped):
            await ask(engine, 2)
        model.gate.set()
        assert await first == [0]


@pytest.mark.parametrize("count", [1, 3, 9])
async def test_what_the_model_gets_may_be_written_to(count: int) -> None:
    """And what was asked stays as it was: it may be the bytes of a request, wherever they begin."""

    class Writing(Doubling):
        def run(self, inputs: Sequence[Array]) -> list[Array]:
            assert inputs[0].flags.carray
            inputs[0] += 1
            return super().run(inputs)

    sent = b"." + np.arange(2 * count, dtype=np.float32).tobytes()
    given = np.frombuffer(sent, np.uint8)[1:].view(np.float32).reshape(count, 2)
    async with running(Writing(), max_batch_size=4) as engine:
        (output,) = await infer(engine, [given], count)
        assert output.tolist() == ((given + 1) * 2).tolist()
        both = await asyncio.gather(infer(engine, [given], count), infer(engine, [given], count))
        assert [one.tolist() for (one,) in both] == [((given + 1) * 2).tolist()] * 2
    assert given.ravel().tolist() == list(range(2 * count))


async def test_short_passes_run_on_the_loop_and_what_would_be_long_in_the_thread() -> None:
    class Where(Doubling):
        def run(self, inputs: Sequence[Array]) -> list[Array]:
            threads.append(threading.current_thread())
            return super().run(inputs)

    threads: list[threading.Thread] = []
    async with running(Where()) as engine:
        for i in range(200):
            assert await ask(engine, i) == [2 * i]
            if threads[-1] is threading.main_thread():
                break
        assert threads[0] is not threading.main_thread() and threads[-1] is threading.main_thread()
        await infer(engine, rows(1, width=50_000_000), 1)
        assert threads[-1] is not threading.main_thread(), "a thousand times as much"


async def test_whoever_cannot_be_told_is_not_the_trouble_of_others() -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))
    model = Doubling()
    model.gate.clear()
    async with running(model) as engine:
        first = asyncio.create_task(ask(engine, 0))
        await asyncio.sleep(0.05)
        engine.submit(rows(1), 1, lambda result: 1 / 0)  # type: ignore[arg-type,return-value]
        last = asyncio.create_task(ask(engine, 2))
        await waiting(engine, 2)
        model.gate.set()
        assert [await first, await last] == [[0], [4]]
        assert await ask(engine, 3) == [6]
    assert isinstance(told[0]["exception"], ZeroDivisionError)
