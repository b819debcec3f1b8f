"""What others said in Kubernetes Events of an object that waits for longer than usual.

The kubelet tells of volumes it cannot mount and of probes that fail, and the Job controller of pods it may not make, in
Events alone. Events cost the API server more than they tell, so only those of few objects are read, and of one that
stays as it is more and more seldom. A courtesy: without the right to read them a status has fewer words.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import structlog

from moorage.kube.client import Client
from moorage.kube.errors import ApiError
from moorage.kube.kinds import EVENT
from moorage.reconcile.store import Object
from moorage.status.kubelet import Heard, Hearsay, next_turn, puzzling

log = structlog.get_logger()

FIRST_LOOK = 4.0
LAST_LOOK = 120.0
OBJECTS = 3
"""Of one resource: its status has the words of one."""
REMEMBERED = 1000


class EventReader:
    def __init__(self, client: Client, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._client, self._clock = client, clock
        # By uid: when to look again, after how long, and what was heard last.
        self._known: OrderedDict[str, tuple[float, float, list[Heard]]] = OrderedDict()

    async def of(self, pods: list[Object], now: str) -> tuple[Hearsay, float | None]:
        """What was said of those pods that wait too long, and in how many seconds there may be more to say."""
        heard, again = await self.about(puzzling(pods, now))
        return heard, min((delay for delay in (again, next_turn(pods, now)) if delay is not None), default=None)

    async def about(self, objects: list[Object]) -> tuple[Hearsay, float | None]:
        """What was said of these, by uid, the newest last, and in how many seconds they are asked about again."""
        some = sorted(objects, key=lambda obj: str(obj["metadata"]["name"]))[:OBJECTS]
        heard = {obj["metadata"]["uid"]: await self._about(obj["metadata"]) for obj in some}
        now = self._clock()
        return heard, min((max(0.0, self._known[uid][0] - now) for uid in heard), default=None)

    async def _about(self, meta: dict[str, Any]) -> list[Heard]:
        uid, now = meta["uid"], self._clock()
        due, delay, heard = self._known.get(uid, (now, FIRST_LOOK, []))
        if now < due:
            return heard
        try:
            found = await self._client.list(EVENT, meta["namespace"], fields=f"regarding.uid={uid}")
            heard = [
                Heard(str(event.get("reason") or ""), str(event.get("note") or ""))
                for event in sorted(found.items, key=_when)
            ]
        except ApiError as error:
            log.debug("events cannot be read", error=error.message)
        self._known[uid] = (now + delay, min(LAST_LOOK, delay * 2), heard)
        self._known.move_to_end(uid)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return heard


def _when(event: Object) -> str:
    """Whoever wrote it last: events are counted in one of two ways, and the older clients' fields say the first."""
    return str(
        (event.get("series") or {}).get("lastObservedTime")
        or event.get("deprecatedLastTimestamp")
        or event.get("eventTime")
        or event["metadata"].get("creationTimestamp")
        or ""
    )
