"""A request on its way through the model's preprocessing, in a thread, to the model's queue."""

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TYPE_CHECKING

from moorage_store.termination import one_line

from .engine import Engine, Job, ModelFailed, QueueFull, Result, TimedOut
from .protocol import InferRequest
from .signature import Array

if TYPE_CHECKING:
    from .preprocess import Preprocess
    from .repository import Entry


class Room:
    """Bytes of what has been made of requests and is not answered."""

    def __init__(self, most: int) -> None:
        self._left = most

    def take(self, size: int) -> bool:
        """Whether there was room."""
        if size > self._left:
            return False
        self._left -= size
        return True

    def give_back(self, size: int) -> None:
        self._left += size


class Preparing:
    def __init__(
        self,
        entry: "Entry",
        engine: Engine,
        preprocess: "Preprocess",
        thread: Executor,
        room: Room,
        asked: InferRequest,
        ran: Callable[[Result], None],
        timeout: float,
    ) -> None:
        """`ran` is called later, with what came of it. Raises QueueFull."""
        if entry.preparing + engine.queue_size >= engine.most_waiting:
            raise QueueFull
        self._entry, self._engine, self._room, self._ran = entry, engine, room, ran
        self._rows, self._priority = asked.rows, asked.priority
        self._inputs: list[Array] | None = asked.inputs
        asked.inputs = []
        self._end = time.perf_counter() + timeout
        self._job: Job | None = None
        self._held = 0
        self._over = False
        loop = asyncio.get_running_loop()
        self._expiry = loop.call_later(timeout, self._expired) if timeout < math.inf else None
        entry.preparing += 1
        loop.run_in_executor(thread, self._prepare, preprocess).add_done_callback(self._prepared)

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        if self._job is not None:
            self._engine.cancel(self._job)
        self._finish()

    def _expired(self) -> None:
        if self._job is None:
            self._tell(TimedOut())

    def _prepare(self, preprocess: "Preprocess") -> list[Array] | None:
        """In a thread. None where nobody waits for it."""
        inputs, self._inputs = self._inputs, None
        return None if self._over or inputs is None else preprocess(inputs, lambda: not self._over)

    def _prepared(self, ended: "asyncio.Future[list[Array] | None]") -> None:
        self._entry.preparing -= 1
        failed = ended.exception() if not ended.cancelled() else None
        if self._over:
            return
        try:
            if failed is not None:
                # Also what is no Exception, as a library of another language may have it.
                raise failed if isinstance(failed, Exception) else ModelFailed(one_line(failed))
            inputs = ended.result()
            assert inputs is not None  # it is not over
            size = sum(array.nbytes for array in inputs)
            if not self._room.take(size):
                raise QueueFull
            self._held = size
            left = self._end - time.perf_counter()
            if left <= 0:
                raise TimedOut
            self._job = self._engine.submit(inputs, self._rows, self._tell, self._priority, left)
        except Exception as error:
            self._tell(error)

    def _tell(self, result: Result) -> None:
        if not self._over:
            self._finish()
            self._ran(result)

    def _finish(self) -> None:
        self._over, self._inputs = True, None
        if self._expiry is not None:
            self._expiry.cancel()
        self._room.give_back(self._held)
        self._held = 0
