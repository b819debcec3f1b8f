"""A work queue of keys: each once, never twice at the same time, again later if asked.

The meaning is client-go's: a key added while it waits is already there; one added while it is being worked on comes
again afterwards. kopf hands over every event by itself, so this is where a hundred changes become one reconcile.
It knows nothing of what a key means.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from typing import Protocol

from moorage import telemetry
from moorage.kube.kinds import Key

BASE_DELAY = 0.05
MAX_DELAY = 300.0

TOGETHER, AT_MOST = 0.3, 3.0
"""Seconds for which news that comes in pieces is collected; the longer, the more keys have such news."""
EACH = 0.02
"""So that collected news makes fifty pieces of work a second, until it would wait for `AT_MOST`."""


class Timer(Protocol):
    def cancel(self) -> None: ...


CallLater = Callable[[float, Callable[[], None]], Timer]


class WorkQueue:
    def __init__(
        self,
        *,
        call_later: CallLater | None = None,
        clock: Callable[[], float] | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._ready: deque[Key] = deque()
        self._dirty: set[Key] = set()
        self._working: set[Key] = set()
        self._timers: dict[Key, tuple[float, Timer]] = {}
        self._failures: dict[Key, int] = {}
        self._wake = asyncio.Event()
        self._call_later = call_later or (lambda delay, call: asyncio.get_running_loop().call_later(delay, call))
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        self._jitter = jitter
        self._last_soon = 0.0

    def __len__(self) -> int:
        return len(self._ready)

    def add(self, key: Key) -> None:
        if key in self._dirty:
            return
        self._dirty.add(key)
        if key not in self._working:
            self._push(key)

    def add_after(self, key: Key, delay: float) -> None:
        """Add it then, or earlier if an earlier time is already set."""
        if delay <= 0:
            self.add(key)
            return
        when = self._clock() + delay
        pending = self._timers.get(key)
        if pending is not None:
            if pending[0] <= when:
                return
            pending[1].cancel()
        self._timers[key] = (when, self._call_later(delay, lambda: self._due(key)))
        telemetry.QUEUE_DELAYED.set(len(self._timers))

    def add_soon(self, key: Key) -> None:
        """Add it when more of the same has probably come."""
        now = self._clock()
        when = min(max(now + TOGETHER, self._last_soon + EACH), now + AT_MOST)
        pending = self._timers.get(key)
        if pending is None or pending[0] > when:
            self._last_soon = when
            self.add_after(key, when - now)

    def retry(self, key: Key, at_least: float = 0) -> float:
        """Add it after a time that doubles with each failure in a row; the delay chosen."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        # The spread keeps a thousand keys that failed together from coming back together.
        delay = min(BASE_DELAY * 2.0 ** min(failures, 30), MAX_DELAY) * (1 + 0.2 * self._jitter())
        delay = max(delay, at_least)
        self.add_after(key, delay)
        return delay

    def forget(self, key: Key) -> None:
        """The key's last work went well: the next failure is a first one."""
        self._failures.pop(key, None)

    async def get(self) -> Key:
        """The next key, which is the caller's until `done`."""
        while not self._ready:
            self._wake.clear()
            await self._wake.wait()
        key = self._ready.popleft()
        self._dirty.discard(key)
        self._working.add(key)
        # The work that begins sees all that a later look was for, and says itself when to look again.
        if pending := self._timers.pop(key, None):
            pending[1].cancel()
            telemetry.QUEUE_DELAYED.set(len(self._timers))
        telemetry.QUEUE_DEPTH.set(len(self._ready))
        return key

    def done(self, key: Key) -> None:
        self._working.discard(key)
        if key in self._dirty:
            self._push(key)

    def _push(self, key: Key) -> None:
        self._ready.append(key)
        self._wake.set()
        telemetry.QUEUE_DEPTH.set(len(self._ready))

    def _due(self, key: Key) -> None:
        self._timers.pop(key, None)
        telemetry.QUEUE_DELAYED.set(len(self._timers))
        self.add(key)
