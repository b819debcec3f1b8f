"""A request on its way through the model's preprocessing, in a thread, to the model's queue."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TYPE_CHECKING

from .engine import Engine, Job, QueueFull, Result, TimedOut
from .protocol import InferRequest
from .signature import Array

if TYPE_CHECKING:
    from .preprocess import Preprocess
    from .repository import Entry


class Preparing:
    def __init__(
        self,
        entry: "Entry",
        engine: Engine,
        preprocess: "Preprocess",
        thread: Executor,
        asked: InferRequest,
        ran: Callable[[Result], None],
        timeout: float,
    ) -> None:
        """`ran` is called later, with what came of it. Raises QueueFull."""
        if entry.preparing + engine.queue_size >= engine.most_waiting:
            raise QueueFull
        self._entry, self._engine, self._asked, self._ran = entry, engine, asked, ran
        self._end = time.perf_counter() + timeout
        self._job: Job | None = None
        self._cancelled = False
        entry.preparing += 1
        self._future = asyncio.get_running_loop().run_in_executor(thread, self._prepare, preprocess)
        self._future.add_done_callback(self._prepared)

    def cancel(self) -> None:
        self._cancelled = True
        if self._job is not None:
            self._engine.cancel(self._job)

    def _prepare(self, preprocess: "Preprocess") -> list[Array] | None:
        """In a thread."""
        if self._cancelled or time.perf_counter() > self._end:
            return None
        return preprocess(self._asked.inputs)

    def _prepared(self, ended: "asyncio.Future[list[Array] | None]") -> None:
        self._entry.preparing -= 1
        if self._cancelled or ended.cancelled():
            return
        try:
            inputs, left = ended.result(), self._end - time.perf_counter()
            if inputs is None or left <= 0:
                raise TimedOut
            asked = self._asked
            self._job = self._engine.submit(inputs, asked.rows, self._ran, asked.priority, left)
        except Exception as failed:
            self._ran(failed)
