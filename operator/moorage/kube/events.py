"""Kubernetes Events, events.k8s.io/v1: one object for each thing that can be said of a resource, counted on repeat.

The API server does not de-duplicate, so the name does: it is made of what the event says. Counts live in memory and
begin anew after a restart; they are for people, nothing is decided by them.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from datetime import UTC, datetime
from typing import Any, Literal

import structlog

from moorage import telemetry
from moorage.kube.client import Client
from moorage.kube.errors import ApiError, Conflict, NotFound
from moorage.kube.kinds import EVENT

log = structlog.get_logger()

REMEMBERED = 10_000
NOTE_LIMIT = 1024


class Recorder:
    def __init__(self, client: Client, instance: str) -> None:
        self._client = client
        self._instance = instance[:128]
        self._counts: OrderedDict[str, int] = OrderedDict()

    async def record(
        self, obj: dict[str, Any], type_: Literal["Normal", "Warning"], reason: str, note: str, action: str
    ) -> None:
        """Write it down; trouble in doing so is logged and never stops a reconcile."""
        meta = obj["metadata"]
        namespace = meta["namespace"]
        note = _clip(note)
        said = "\0".join((meta["uid"], type_, reason, note))
        name = f"{meta['name']}.{hashlib.blake2b(said.encode(), digest_size=8).hexdigest()}"
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        event = {
            "apiVersion": EVENT.api_version,
            "kind": EVENT.kind,
            "metadata": {"name": name, "namespace": namespace},
            "eventTime": now,
            "reportingController": "moorage.dev/operator",
            "reportingInstance": self._instance,
            "type": type_,
            "reason": reason,
            "action": action,
            "note": note,
            "regarding": {
                "apiVersion": obj["apiVersion"],
                "kind": obj["kind"],
                "namespace": namespace,
                "name": meta["name"],
                "uid": meta["uid"],
            },
        }
        try:
            # What we said before is there already, as long as the API server keeps it.
            if name not in self._counts or not await self._count(namespace, name, now):
                try:
                    await self._client.create(EVENT, namespace, event, timeout=5)
                    self._remember(name, 1)
                except Conflict:
                    await self._count(namespace, name, now)
        except NotFound:
            telemetry.EVENTS_POSTED.labels("gone").inc()  # the namespace went
        except ApiError as error:
            telemetry.EVENTS_POSTED.labels("failed").inc()
            log.warning(
                "event not written", kind=obj["kind"], namespace=namespace, name=meta["name"], error=error.message
            )
        else:
            telemetry.EVENTS_POSTED.labels("written").inc()

    async def _count(self, namespace: str, name: str, now: str) -> bool:
        """One more of the same; whether it was still there."""
        count = self._counts.get(name, 1) + 1
        try:
            series = {"series": {"count": count, "lastObservedTime": now}}
            await self._client.patch(EVENT, namespace, name, series)
        except NotFound:
            self._counts.pop(name, None)
            return False
        self._remember(name, count)
        return True

    def _remember(self, name: str, count: int) -> None:
        self._counts[name] = count
        self._counts.move_to_end(name)
        if len(self._counts) > REMEMBERED:
            self._counts.popitem(last=False)


def _clip(note: str) -> str:
    data = note.encode()
    return note if len(data) <= NOTE_LIMIT else data[: NOTE_LIMIT - 3].decode(errors="ignore") + "…"
