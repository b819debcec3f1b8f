"""How far each running training is, asked of its first worker.

A courtesy of the pods, never a condition for anything: a worker that does not answer is left alone, and what a
training achieved comes from its termination message. One loop asks for all, so that no reconcile waits for a pod.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import aiohttp

from moorage.api.names import STATUS_PORT, train_name
from moorage.kube.kinds import Key
from moorage.reconcile.ask import small_text

AT_ONCE = 32
LIMIT_BYTES = 65_536

Url = Callable[[Key], str]


def progress_url(key: Key) -> str:
    service = train_name(key.name)
    return f"http://{service}-0.{service}.{key.namespace}.svc:{STATUS_PORT}/progress"


class ProgressWatch:
    def __init__(self, session: aiohttp.ClientSession, changed: Callable[[Key], None], url: Url = progress_url) -> None:
        self._session, self._changed, self._url = session, changed, url
        self._known: dict[Key, dict[str, Any] | None] = {}
        self._limit = asyncio.Semaphore(AT_ONCE)

    def follow(self, key: Key) -> None:
        self._known.setdefault(key, None)

    def leave(self, key: Key) -> None:
        self._known.pop(key, None)

    def last(self, key: Key) -> dict[str, Any] | None:
        return self._known.get(key)

    async def run(self, interval: float) -> None:
        while True:
            await asyncio.gather(*(self._ask(key, min(1.5, interval)) for key in tuple(self._known)))
            await asyncio.sleep(interval)

    async def _ask(self, key: Key, seconds: float) -> None:
        async with self._limit:
            text = await small_text(self._session, self._url(key), seconds=seconds, limit=LIMIT_BYTES)
        try:
            progress = json.loads(text or "")
        except (ValueError, RecursionError):
            return
        if isinstance(progress, dict) and key in self._known and progress != self._known[key]:
            self._known[key] = progress
            self._changed(key)
