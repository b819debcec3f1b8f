"""Queue and batches: requests wait here, go through the model together, and each gets its own rows back.

A batch is all that has come when the loop is free. A forward pass that is short runs right there, for handing it to a
thread would take longer; a long one runs in a thread of its own, so that probes are answered meanwhile. Knows neither
HTTP nor JSON nor torch.
"""

import asyncio
import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import numpy as np

from moorage_store.termination import one_line

from .calibration import BatchSize
from .failures import Lost, ModelCrashed, StartupError
from .padding import Padding
from .signature import Array, Signature

INLINE_SECONDS = 0.002
"""Up to here a forward pass runs on the loop: a thread would cost more than anybody waits."""
_WEIGHT = 0.2  # of the last batch in the mean


class Runnable(Protocol):
    @property
    def signature(self) -> Signature: ...
    @property
    def inline(self) -> bool:
        """Whether the loop may wait for it where it takes a moment."""

    def run(self, inputs: Sequence[Array]) -> list[Array]: ...


class QueueFull(Exception):
    """As many requests wait as may."""


class Stopped(Exception):
    """The server is going away and will not run this request any more."""


class TimedOut(Exception):
    """It has waited as long as its client would."""


class ModelFailed(Exception):
    """The model raised an error on this request."""


Result = list[Array] | Exception
"""The model's outputs in the order of the signature; or ModelFailed, TimedOut or Stopped."""


@dataclass(eq=False, repr=False, slots=True)  # a deque that has not what it is asked for prints it
class Job:
    inputs: list[Array]
    rows: int
    came: float
    """By time.perf_counter()."""
    start_by: float
    """By the loop's clock: until then it may wait for others to go with."""
    done: Callable[[Result], None]
    shapes: tuple[tuple[int, ...], ...]
    """Of a row of each input, where they may differ: those with others cannot go along."""
    priority: int
    expiry: asyncio.TimerHandle | None = None


class Engine:
    def __init__(
        self,
        model: Runnable,
        thread: Executor,
        *,
        max_batch_size: int = 64,
        batch_seconds: Mapping[int, float] = MappingProxyType({}),
        max_queue_size: int = 1024,
        max_delay: float = 0.0,
        observe_batch: Callable[[int], None] = lambda rows: None,
        observe_run: Callable[[list[float], float], None] = lambda waited, seconds: None,
        on_break: Callable[[BaseException], None] = lambda error: None,
    ) -> None:
        """`batch_seconds`: what a batch takes by its rows, as far as was measured. `observe_batch` hears of the rows of
        each forward pass, in the thread that runs it; `observe_run` hears on the loop for how long each request of a
        batch had waited, and how long the model took; `on_break` of an error that leaves the model unusable."""
        self._model = model
        self._thread = thread
        self._inline = model.inline
        self._batches = model.signature.batch is not None
        self._least_rows, most_rows = model.signature.batch_sizes(max_batch_size)
        self._size_of_batch = BatchSize(self._least_rows, most_rows, batch_seconds)
        self._max_rows = self._size_of_batch.now
        shapes_differ = any(dim.dynamic for spec in model.signature.inputs for dim in spec.dims[1:])
        self._padding = Padding(model.signature) if shapes_differ else None
        self._max_queue_size = max_queue_size
        self._max_delay = max_delay
        self._observe_batch, self._observe_run, self._on_break = observe_batch, observe_run, on_break
        self._waiting: dict[int, deque[Job]] = {}
        """By priority, the first to go at the beginning."""
        self._count = self._waiting_rows = 0
        self._loop = asyncio.get_running_loop()
        self._running = self._soon = self._stopped = False
        self._timer: asyncio.TimerHandle | None = None
        # The means of late, of a batch: from them it is told how long the next one will take.
        self._seconds, self._size = 1.0, 1.0  # size: numbers in its inputs
        self._began = self._took = 0.0  # of the last batch

    @property
    def batch_size(self) -> int:
        """Rows of a batch at most, as of now."""
        return self._size_of_batch.now

    @property
    def queue_size(self) -> int:
        return self._count

    @property
    def idle(self) -> bool:
        return not (self._count or self._running or self._soon)

    def oldest(self) -> float:
        """Seconds for which the request has waited that came first of those that wait."""
        first = min((jobs[0].came for jobs in self._waiting.values() if jobs), default=None)
        return 0.0 if first is None else time.perf_counter() - first

    @property
    def most_waiting(self) -> int:
        return self._max_queue_size

    @property
    def full(self) -> bool:
        return self._count >= self._max_queue_size

    def submit(
        self,
        inputs: list[Array],
        rows: int,
        done: Callable[[Result], None],
        priority: int = 0,
        timeout: float = math.inf,
    ) -> Job:
        """`done` is called on the loop, later, with what came of it. Of those that wait, the lowest `priority` goes
        first; after `timeout` seconds it is not run any more. Raises Stopped and QueueFull."""
        if self._stopped:
            raise Stopped
        if self.full:
            raise QueueFull
        shapes = self._padding.key(inputs) if self._padding else ()
        now = self._loop.time()
        job = Job(inputs, rows, time.perf_counter(), now + min(self._max_delay, timeout / 2), done, shapes, priority)
        if timeout < math.inf:
            job.expiry = self._loop.call_at(now + timeout, self._expire, job)
        if priority not in self._waiting:
            self._waiting = dict(sorted([*self._waiting.items(), (priority, deque())]))
        self._waiting[priority].append(job)
        self._count += 1
        self._waiting_rows += rows
        if self._timer is not None and job.start_by < self._timer.when():
            self._timer.cancel()
            self._timer = None
        self._arrange()
        return job

    def cancel(self, job: Job) -> None:
        """Nobody waits for it any more: out of the queue it goes, if it is still there."""
        if not self._remove(job):
            job.done = _nobody

    def _expire(self, job: Job) -> None:
        if self._remove(job):
            self._tell(job, TimedOut())

    def _remove(self, job: Job) -> bool:
        """Whether it was still waiting."""
        try:
            self._waiting[job.priority].remove(job)
        except ValueError:
            return False
        self._left(job)
        return True

    def stop(self, told: Exception | None = None) -> None:
        """Gives up what still waits. `told`: why, if not because the server goes."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for jobs in self._waiting.values():
            while jobs:
                job = jobs.popleft()
                self._left(job)
                self._tell(job, told or Stopped())

    def _arrange(self) -> None:
        """Sees to it that a batch begins when its time has come."""
        if self._running or self._soon or not self._count:
            return
        if self._max_delay and self._waiting_rows < self._max_rows:
            if self._timer is None:
                first = min(job.start_by for jobs in self._waiting.values() for job in jobs)
                self._timer = self._loop.call_at(first, self._batch)
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._soon = True
        self._loop.call_soon(self._batch)

    def _batch(self) -> None:
        self._soon, self._timer = False, None
        if self._running:
            return
        if self._padding is None:  # else one batch cannot be compared with another
            self._max_rows = self._size_of_batch.next(self._waiting_rows)
        if not (batch := self._take()):
            return
        size = sum(array.size for job in batch for array in job.inputs)
        try:
            if not self._inline or self._seconds * max(1.0, size / self._size) > INLINE_SECONDS:
                running = self._loop.run_in_executor(self._thread, self._timed, batch, size)
                self._running = True
                running.add_done_callback(lambda ran: self._ran(batch, ran))
                return
            results = self._timed(batch, size)
        except BaseException as error:
            self._break(batch, error)
        else:
            self._deliver(batch, results)

    def _ran(self, batch: list[Job], ran: "asyncio.Future[list[Result]]") -> None:
        self._running = False
        if ran.cancelled():
            return
        if error := ran.exception():
            self._break(batch, error)
        else:
            self._deliver(batch, ran.result())

    def _deliver(self, batch: list[Job], results: list[Result]) -> None:
        self._observe_run([self._began - job.came for job in batch], self._took)
        for job, result in zip(batch, results, strict=True):
            self._tell(job, result)
        self._arrange()

    def _tell(self, job: Job, result: Result) -> None:
        try:
            job.done(result)
        except Exception as error:  # whoever waits for it must not be the trouble of the others
            self._loop.call_exception_handler({"message": "an answer cannot be told", "exception": error})

    def _break(self, batch: list[Job], error: BaseException) -> None:
        """The model is of no more use, and so is the server."""
        told = ModelFailed(str(error)) if isinstance(error, ModelCrashed) else Stopped()
        for job in batch:
            self._tell(job, told)
        self.stop(told)
        self._on_break(error)

    def _timed(self, batch: list[Job], size: int) -> list[Result]:
        self._began = time.perf_counter()
        results = self._run(batch)
        self._took = time.perf_counter() - self._began
        if self._padding is None and not any(isinstance(result, Exception) for result in results):
            self._size_of_batch.ran(sum(job.rows for job in batch), self._took)
        self._seconds += _WEIGHT * (self._took - self._seconds)
        self._size += _WEIGHT * (size - self._size)
        return results

    def _take(self) -> list[Job]:
        """The first request and those after it that fit beside it; the others keep their places."""
        batch: list[Job] = []
        rows = 0
        for waiting in self._waiting.values():
            passed = []
            while waiting and (not batch or (self._batches and rows < self._max_rows)):
                job = waiting.popleft()
                if not batch or (job.shapes == batch[0].shapes and rows + job.rows <= self._max_rows):
                    batch.append(job)
                    rows += job.rows
                    self._left(job)
                else:
                    passed.append(job)
            waiting.extendleft(reversed(passed))
        return batch

    def _left(self, job: Job) -> None:
        self._count -= 1
        self._waiting_rows -= job.rows
        if job.expiry is not None:
            job.expiry.cancel()

    def _run(self, batch: list[Job]) -> list[Result]:
        """One forward pass; where it fails, one for each request, so only the guilty fail."""
        try:
            if len(batch) == 1:
                return [self._forward(batch[0].inputs, batch[0].rows)]
            rows = sum(job.rows for job in batch)
            inputs = [job.inputs for job in batch]
            put = self._padding.together if self._padding else _concatenated
            outputs = self._forward(put(inputs), rows)
        except Lost:
            raise
        except Exception as error:
            if len(batch) > 1:
                return [result for job in batch for result in self._run([job])]
            if isinstance(error, ModelFailed):
                return [error]
            return [ModelFailed(error.message if isinstance(error, StartupError) else one_line(error))]
        ends = itertools.accumulate([job.rows for job in batch])
        results = [[array[end - job.rows : end] for array in outputs] for job, end in zip(batch, ends, strict=True)]
        if self._padding is None:
            return list(results)
        return [self._padding.cut(result, job.inputs) for job, result in zip(batch, results, strict=True)]

    def _forward(self, inputs: list[Array], rows: int) -> list[Array]:
        if not self._batches:
            self._observe_batch(1)
            return self._model.run(_own(inputs))
        # A single request may bring more rows than a batch may have: even parts, and none smaller than the model takes.
        count = max(1, min(-(-rows // self._max_rows), rows // self._least_rows))
        ends = [rows * i // count for i in range(count + 1)]
        parts = []
        for start, end in itertools.pairwise(ends):
            self._observe_batch(end - start)
            parts.append(self._model.run(_own(inputs if count == 1 else [array[start:end] for array in inputs])))
        outputs = parts[0] if len(parts) == 1 else [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]
        if any(array.shape[:1] != (rows,) for array in outputs):
            raise ValueError(f"the model gave {[array.shape for array in outputs]} for {rows} rows")
        return outputs


def _concatenated(requests: Sequence[Sequence[Array]]) -> list[Array]:
    return [np.concatenate(parts) for parts in zip(*requests, strict=True)]


def _own(inputs: list[Array]) -> list[Array]:
    """What is only seen through (the bytes of a request) is copied: a model may write to its inputs. Rows of several
    requests have been, when they were put together."""
    return [array if array.flags.carray else array.copy() for array in inputs]


def _nobody(_result: Result) -> None:
    """Where the client of a job that ran has gone."""
