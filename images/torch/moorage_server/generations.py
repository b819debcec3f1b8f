"""The texts that a model is generating: how many at once, who waits, and that nobody is given more than they take.

One connection to the model's process (`worker`), on the loop, which is also how its end is noticed at once. Knows
neither HTTP nor JSON of clients.
"""

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from . import pipe
from .engine import ModelFailed, QueueFull, Stopped
from .failures import ModelCrashed
from .handler import Handler

WINDOW = 16
"""Pieces that may be on their way to a client who has not taken them."""


class Generation:
    """One text. `on_piece` hears of each of its pieces and says whether there is room for another; where there is none,
    its owner says with `Generations.has_room` when there is. What it raises ends the text. `on_end` hears of its end,
    and why it ended where it did so too early."""

    __slots__ = ("asked", "began", "behind", "number", "on_end", "on_piece")

    def __init__(
        self,
        number: int,
        asked: bytes,
        on_piece: Callable[[str], bool],
        on_end: Callable[[Exception | None], None],
    ) -> None:
        """`asked`: what its process is told, encoded."""
        self.number, self.asked, self.on_piece, self.on_end = number, asked, on_piece, on_end
        self.behind = 0
        """Pieces that were made and not taken."""
        self.began = time.perf_counter()


class Generations(asyncio.Protocol):
    def __init__(
        self, handler: Handler, *, most: int, most_waiting: int, on_break: Callable[[BaseException], None]
    ) -> None:
        self._handler, self._most, self._most_waiting, self._on_break = handler, most, most_waiting, on_break
        self._running: dict[int, Generation] = {}
        self._waiting: deque[Generation] = deque()
        self._numbers = itertools.count()
        self._reader = pipe.Reader()
        self._transport: asyncio.Transport | None = None
        self._stopped = self._lost = False

    @classmethod
    async def of(cls, handler: Handler, **how: Any) -> "Generations":
        """Connected."""
        made = cls(handler, **how)
        await asyncio.get_running_loop().create_connection(lambda: made, sock=handler.streams)
        return made

    @property
    def idle(self) -> bool:
        return not (self._running or self._waiting)

    @property
    def queue_size(self) -> int:
        return len(self._waiting)

    def oldest(self) -> float:
        """Seconds for which the one has waited that came first of those that wait."""
        return time.perf_counter() - self._waiting[0].began if self._waiting else 0.0

    def submit(
        self,
        text: str,
        parameters: Mapping[str, Any],
        on_piece: Callable[[str], bool],
        on_end: Callable[[Exception | None], None],
    ) -> Generation:
        """Raises Stopped, QueueFull, ModelFailed, and TypeError for what cannot be told its process: values too deep in
        others."""
        if self._stopped:
            raise ModelFailed("the model's process has ended") if self._lost else Stopped
        if len(self._running) >= self._most and len(self._waiting) >= self._most_waiting:
            raise QueueFull
        number = next(self._numbers)
        asked = pipe.encode({"id": number, "text": text, "parameters": parameters, "credit": WINDOW})
        made = Generation(number, asked, on_piece, on_end)
        self._waiting.append(made)
        self._begin()
        return made

    def has_room(self, one: Generation) -> None:
        """Its client has taken all that there was."""
        if one.behind and one.number in self._running:
            self._say(pipe.encode({"id": one.number, "credit": one.behind}))
            one.behind = 0

    def cancel(self, one: Generation) -> None:
        """Nobody waits for it any more."""
        if self._running.pop(one.number, None) is not None:
            self._say(pipe.encode({"id": one.number, "cancel": True}))
            self._begin()
        elif one in self._waiting:
            self._waiting.remove(one)

    @property
    def able(self) -> bool:
        """Whether its model gives texts at all."""
        return self._handler.generates

    @property
    def only(self) -> bool:
        """Whether it gives nothing else."""
        return not self._handler.predicts

    def stop(self, told: Exception | None = None) -> None:
        """Gives up what has not ended. `told`: why, if not because the server goes."""
        self._stopped = True
        given_up = [*self._running.values(), *self._waiting]
        self._running.clear()
        self._waiting.clear()
        for one in given_up:
            self._tell(one, told or Stopped())
        if self._transport is not None:
            self._transport.abort()

    def _begin(self) -> None:
        while self._waiting and len(self._running) < self._most:
            one = self._waiting.popleft()
            self._running[one.number] = one
            self._say(one.asked)

    def _say(self, message: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(message)

    def _hear(self, message: dict[str, Any]) -> None:
        one = self._running.get(message["id"])
        if one is None:
            return  # it was cancelled meanwhile
        if (piece := message.get("piece")) is not None:
            one.behind += 1
            try:
                if one.on_piece(piece):
                    self.has_room(one)
            except Exception as error:
                self.cancel(one)
                self._tell(one, error)
            return
        del self._running[one.number]
        self._begin()
        self._tell(one, ModelFailed(message["error"]) if "error" in message else None)

    def _tell(self, one: Generation, failed: Exception | None) -> None:
        try:
            one.on_end(failed)
        except Exception as error:  # whoever waits for it must not be the trouble of the others
            context = {"message": "a text cannot be told", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)

    # From the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        for message in self._reader.feed(data):
            self._hear(message)

    def connection_lost(self, exc: BaseException | None) -> None:
        if not self._stopped:
            self._stopped = self._lost = True
            ending = asyncio.get_running_loop().run_in_executor(None, self._handler.crashed)
            ending.add_done_callback(self._crashed)

    def _crashed(self, ended: "asyncio.Future[ModelCrashed]") -> None:
        self.stop(ModelFailed(str(ended.result())))
        self._on_break(ended.result())
