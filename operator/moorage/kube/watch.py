"""One kind followed for ever: every change after a list, in order, over broken connections and restarts of the server.

The same as client-go's reflector: watch from the list's version, go on from the last one seen when the line breaks, and
list again when the server no longer knows that version (410). What changed while the line was down comes with that;
deletions too, as whoever takes in the list drops what is not in it. It knows nothing of what objects mean.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from moorage import telemetry
from moorage.kube.client import Client
from moorage.kube.errors import ApiError, Expired
from moorage.kube.kinds import Kind

log = structlog.get_logger()

FIRST_WAIT, LONGEST_WAIT = 0.2, 5.0


class Watch:
    def __init__(
        self,
        client: Client,
        kind: Kind,
        namespace: str | None,
        labels: str,
        *,
        since: int,
        relist: Callable[[], Awaitable[int]],
        take: Callable[[str, dict[str, Any]], None],
        reached: Callable[[int], None],
        mended: Callable[[], None],
    ) -> None:
        """`since`: the version of the list that is known. `relist` takes in a new one and returns its version.
        `reached` hears of each version up to which all is known without an event: of lists and bookmarks. `mended` is
        called when the watch works again after a break."""
        self._client, self._kind, self._namespace, self._labels = client, kind, namespace, labels
        self._since: int | None = since
        self._relist, self._take, self._reached, self._mended = relist, take, reached, mended
        self._broken_at: float | None = None
        self.error = ""
        """The last one's words."""

    @property
    def name(self) -> str:
        return f"{self._kind.plural}" + (f" in {self._namespace}" if self._namespace else "")

    @property
    def broken_for(self) -> float:
        """Seconds since it last worked; 0 while it does."""
        return 0.0 if self._broken_at is None else time.monotonic() - self._broken_at

    async def run(self) -> None:
        failures = 0
        if self._since is not None:
            self._reached(self._since)
        while True:
            try:
                if self._since is None:
                    self._since = await self._relist()
                    self._reached(self._since)
                began = time.monotonic()
                async for event in self._client.watch(
                    self._kind, self._namespace, labels=self._labels, since=self._since
                ):
                    if event is not None:
                        failures = 0
                        self._pass_on(event)
                    if self._broken_at is not None:
                        self._broken_at = None
                        self._mended()
                # The API server ends a watch after minutes; one that ends at once is none.
                failures = 0 if time.monotonic() - began > LONGEST_WAIT else failures + 1
            except Expired:
                telemetry.WATCH_RESTARTS.labels(self._kind.kind, "expired").inc()
                self._since = None
                failures += 1
            except ApiError as error:
                telemetry.WATCH_RESTARTS.labels(self._kind.kind, "error").inc()
                self._broken_at, self.error = self._broken_at or time.monotonic(), error.message
                failures += 1
                log.debug("watch broke", kind=self._kind.kind, error=error.message)
            if failures:
                wait = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(failures, 10))
                await asyncio.sleep(wait * (0.5 + random.random() / 2))

    def _pass_on(self, event: dict[str, Any]) -> None:
        obj = event["object"]
        if event["type"] != "BOOKMARK":
            # Events of built-in kinds have both, unlike items of their lists; to rely on it is not needed.
            obj["kind"], obj["apiVersion"] = self._kind.kind, self._kind.api_version
            self._take(event["type"], obj)
        self._since = int(obj["metadata"]["resourceVersion"])
        if event["type"] == "BOOKMARK":
            self._reached(self._since)
