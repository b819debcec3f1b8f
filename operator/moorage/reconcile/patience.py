"""When progress is worth a write: soon where little is on its way, seldom in a storm.

Every write of a status costs the API server as much as a new child. A thousand models that start at once would be told
of at every step of every pod, and start the slower for it. So what is only progress waits, the longer the more others
wait too, and is left out altogether when the end comes first. What turned is never kept back (`statuses.can_wait`).
"""

from __future__ import annotations

from collections.abc import Callable

from moorage.kube.kinds import Key

LEAST, MOST, MOST_AFTER = 2.0, 600.0, 5.0
LOOK_AGAIN = 60.0
"""By then the others may be gone, for whom this one was to wait."""
FOR_EACH = 0.5
"""Two writes a second for the progress of all together."""


class Patience:
    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since: dict[Key, float] = {}

    def left(self, key: Key, *, ended: bool = False) -> float:
        """Seconds for which this progress should still wait; counted from when there was first something to tell.

        `ended`: what follows the end, as counts of pods that leave. No other write will tell it, so none is saved.
        """
        now = self._clock()
        since = self._since.setdefault(key, now)
        return max(0.0, since + min(MOST_AFTER if ended else MOST, max(LEAST, FOR_EACH * len(self._since))) - now)

    def told(self, key: Key) -> None:
        """Its status is what it should be."""
        self._since.pop(key, None)
