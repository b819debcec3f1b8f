"""Queue and batches: requests wait here, go through the model together, and each gets its own rows back.

Everything but the forward pass runs on the event loop; the forward pass runs in one thread of its own, so a slow model
never keeps the server from answering probes. Knows neither HTTP nor JSON nor torch.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from moorage_store.termination import one_line

from .failures import DeviceLost
from .signature import Array, Signature


class Runnable(Protocol):
    @property
    def signature(self) -> Signature: ...
    def run(self, inputs: Sequence[Array]) -> list[Array]: ...


class QueueFull(Exception):
    """As many requests wait as may."""


class Stopped(Exception):
    """The server is going away and will not run this request any more."""


class ModelFailed(Exception):
    """The model raised an error on this request."""


@dataclass(eq=False)
class Job:
    inputs: list[Array]
    rows: int
    arrived: float
    answer: "asyncio.Future[list[Array]]"
    # Requests whose free dimensions differ cannot be one array.
    shapes: tuple[tuple[int, ...], ...] = field(init=False)

    def __post_init__(self) -> None:
        self.shapes = tuple(array.shape[1:] for array in self.inputs)


class Engine:
    def __init__(
        self,
        model: Runnable,
        thread: Executor,
        *,
        max_batch_size: int = 64,
        max_queue_size: int = 1024,
        max_delay: float = 0.0,
        observe_batch: Callable[[int], None] = lambda rows: None,
    ) -> None:
        batch = model.signature.batch
        self._model = model
        self._thread = thread
        self._batches = batch is not None
        self._max_rows = int(min(max_batch_size, batch.high)) if batch else 1
        self._max_queue_size = max_queue_size
        self._max_delay = max_delay
        self._observe_batch = observe_batch
        self._waiting: deque[Job] = deque()
        self._waiting_rows = 0
        self._arrival = asyncio.Event()
        self._stopped = False

    @property
    def queue_size(self) -> int:
        return len(self._waiting)

    @property
    def full(self) -> bool:
        return len(self._waiting) >= self._max_queue_size

    async def infer(self, inputs: list[Array], rows: int) -> list[Array]:
        """The model's outputs for these inputs. Cancelled, it takes its request out of the queue."""
        if self._stopped:
            raise Stopped
        if self.full:
            raise QueueFull
        loop = asyncio.get_running_loop()
        job = Job(inputs, rows, loop.time(), loop.create_future())
        self._waiting.append(job)
        self._waiting_rows += rows
        self._arrival.set()
        try:
            return await job.answer
        except asyncio.CancelledError:
            if job in self._waiting:
                self._waiting.remove(job)
                self._waiting_rows -= rows
            raise

    async def serve(self) -> None:
        """Runs batches for ever: all that arrived while the last one ran, up to the largest batch.

        Ends only with an error that leaves the model unusable.
        """
        loop = asyncio.get_running_loop()
        while True:
            while not self._waiting:
                self._arrival.clear()
                await self._arrival.wait()
            if self._max_delay:
                await self._gather()
            batch = self._take()
            if not batch:
                continue
            try:
                results = await loop.run_in_executor(self._thread, self._run, batch)
            except BaseException:
                for job in batch:
                    _fail(job, Stopped())
                raise
            for job, result in zip(batch, results, strict=True):
                if isinstance(result, ModelFailed):
                    _fail(job, result)
                elif not job.answer.done():  # done: its client went away meanwhile
                    job.answer.set_result(result)

    def stop(self) -> None:
        """Gives up what still waits."""
        self._stopped = True
        while self._waiting:
            _fail(self._waiting.popleft(), Stopped())
        self._waiting_rows = 0

    async def _gather(self) -> None:
        """Waits for a full batch, no longer than the oldest request may be kept."""
        deadline = self._waiting[0].arrived + self._max_delay
        try:
            async with asyncio.timeout_at(deadline):
                while self._waiting_rows < self._max_rows:
                    self._arrival.clear()
                    await self._arrival.wait()
        except TimeoutError:
            pass

    def _take(self) -> list[Job]:
        """The oldest request and those after it that fit beside it; the others keep their places."""
        if not self._waiting:
            return []
        batch, rows, passed = [self._waiting.popleft()], 0, []
        rows = batch[0].rows
        while self._batches and self._waiting and rows < self._max_rows:
            job = self._waiting.popleft()
            if job.shapes == batch[0].shapes and rows + job.rows <= self._max_rows:
                batch.append(job)
                rows += job.rows
            else:
                passed.append(job)
        self._waiting.extendleft(reversed(passed))
        self._waiting_rows -= rows
        return batch

    def _run(self, batch: list[Job]) -> list[list[Array] | ModelFailed]:
        """In the model's thread: one forward pass; where it fails, one for each request, so only the guilty fail."""
        try:
            if len(batch) == 1:
                return [self._forward(batch[0].inputs, batch[0].rows)]
            rows = sum(job.rows for job in batch)
            outputs = self._forward(
                [np.concatenate(parts) for parts in zip(*(j.inputs for j in batch), strict=True)], rows
            )
        except DeviceLost:
            raise
        except Exception as error:
            if len(batch) > 1:
                return [result for job in batch for result in self._run([job])]
            return [ModelFailed(one_line(error))]
        ends = np.cumsum([job.rows for job in batch])
        return [[array[end - job.rows : end] for array in outputs] for job, end in zip(batch, ends, strict=True)]

    def _forward(self, inputs: list[Array], rows: int) -> list[Array]:
        if not self._batches:
            self._observe_batch(1)
            return self._model.run(inputs)
        # A single request may bring more rows than a batch may have. Even parts leave no small remainder, which a
        # model with a least batch size would refuse.
        count = -(-rows // self._max_rows)
        ends = [rows * i // count for i in range(count + 1)]
        parts = []
        for start, end in itertools.pairwise(ends):
            self._observe_batch(end - start)
            parts.append(self._model.run(inputs if count == 1 else [array[start:end] for array in inputs]))
        outputs = parts[0] if len(parts) == 1 else [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]
        if any(array.shape[:1] != (rows,) for array in outputs):
            raise ValueError(f"the model gave {[array.shape for array in outputs]} for {rows} rows")
        return outputs


def _fail(job: Job, error: Exception) -> None:
    if not job.answer.done():
        job.answer.set_exception(error)
