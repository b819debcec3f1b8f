"""HTTP/2's flow control of what we send (RFC 9113, 5.2): how much a client has room for, and what waits for more of it.

What it may send to us depends on the messages that it makes, and is `http2`'s.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from .frames import DATA, MOST, Broken, Code, Reset, frame

if TYPE_CHECKING:
    from .door import Door

_MAX_FRAME = 64 * 1024


class Outbox:
    """Of a call: its client's room, and what waits for more of it."""

    __slots__ = ("id", "parts", "window")

    def __init__(self, id: int, window: int) -> None:
        self.id, self.window = id, window
        self.parts: deque[bytes] = deque()


class Outflow:
    """Of a connection. What waits is held, as what has come and is not answered."""

    def __init__(self, door: "Door", now: Callable[[], float]) -> None:
        self._door, self._now = door, now
        self._window, self._max_frame = 65535, 16384
        self.call_window = 65535
        """Of a call that begins."""
        self.untaken: dict[int, float] = {}
        """Calls whose client does not take what waits for it, and since when."""
        self._starved: dict[int, Outbox] = {}  # of these the ones that wait for room on the connection

    def whole(self, box: Outbox, size: int) -> bool:
        """Whether so much may go out at once and in one frame; then it counts as sent."""
        if box.parts or size > self._max_frame or size > box.window or size > self._window:
            return False
        box.window -= size
        self._window -= size
        return True

    def send(self, box: Outbox, part: bytes) -> list[bytes]:
        """The frames that may go out now; the rest waits."""
        # In small ones: each frame of a large one would make a copy of its rest.
        box.parts.extend(part[at : at + _MAX_FRAME] for at in range(0, len(part), _MAX_FRAME))
        self._door.held += len(part)
        return self.push(box)

    def push(self, box: Outbox) -> list[bytes]:
        """As much of what waits as the client has room for, in frames."""
        frames: list[bytes] = []
        parts = box.parts
        while parts:
            room = min(self._max_frame, box.window, self._window)
            if room <= 0:
                self.untaken.setdefault(box.id, self._now())
                if box.window > 0:
                    self._starved[box.id] = box
                return frames
            part = parts.popleft()
            if len(part) > room:
                parts.appendleft(part[room:])
                part = part[:room]
            box.window -= len(part)
            self._window -= len(part)
            self._door.held -= len(part)
            frames.append(frame(DATA, 0, box.id, part))
        self.untaken.pop(box.id, None)
        return frames

    def drop(self, box: Outbox) -> None:
        """Its call has ended."""
        self._door.held -= sum(map(len, box.parts))
        box.parts.clear()
        self.untaken.pop(box.id, None)
        self._starved.pop(box.id, None)

    # What the client says; those that wait and may go on are to be pushed, one after the other.

    def widen(self, more: int) -> Iterator[Outbox]:
        """The room of the connection."""
        if not more or self._window + more > MOST:
            raise Broken(Code.FLOW if more else Code.PROTOCOL, "a window that cannot be")
        self._window += more
        while self._starved and self._window > 0:
            yield self._starved.pop(next(iter(self._starved)))

    def widen_call(self, box: Outbox, more: int) -> None:
        if box.window + more > MOST:
            raise Reset(box.id, Code.FLOW)
        box.window += more

    def resize_calls(self, window: int, boxes: Iterable[Outbox]) -> Iterator[Outbox]:
        """The room of these, and of those that begin from now on."""
        change, self.call_window = window - self.call_window, window
        for box in boxes:
            box.window += change
            if box.window > MOST:
                raise Broken(Code.FLOW, "a window that cannot be")
            if box.parts:
                yield box

    def resize_frames(self, size: int) -> None:
        if not 16384 <= size < 1 << 24:
            raise Broken(Code.PROTOCOL, "a size of frames that cannot be")
        self._max_frame = min(size, _MAX_FRAME)
