"""What model servers say of their own start: asked once of each pod that may have to be told of, never waited for.

The numbers are metrics of the server (docs/contracts.md); no rights in the pod are needed. One that does not answer, or
has no such metrics, is left alone: its ladder has fewer steps. Only what more depends on is asked more than once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from moorage.api.names import METRICS_PORT
from moorage.kube.kinds import Key
from moorage.reconcile.ask import small_text
from moorage.status.cold_start import MOST_FAILED, ServerTimes
from moorage.status.pods import is_ready

AT_ONCE = 32
SECONDS, AGAIN_SECONDS = 1.5, 3.0
LIMIT_BYTES = 1_048_576

_LOAD, _WARM_UP = "moorage_server_model_load_seconds", "moorage_server_warm_up_seconds"
_SPEED, _MOST_SPEEDS = "moorage_server_forward_rows_per_second", 24
_FAILED = "moorage_server_model_failed"
_LONGEST = 63
_SENSIBLE = 1e12
_NOTHING: Mapping[str, ServerTimes] = MappingProxyType({})

Url = Callable[[dict[str, Any]], str]


def metrics_url(pod: dict[str, Any]) -> str:
    address = pod["status"]["podIP"]
    wanted = "&".join(f"name[]={name}" for name in (_LOAD, _WARM_UP, _SPEED, _FAILED))
    return f"http://{f'[{address}]' if ':' in address else address}:{METRICS_PORT}/metrics?{wanted}"


class Servers:
    def __init__(self, session: aiohttp.ClientSession, changed: Callable[[Key], None], url: Url = metrics_url) -> None:
        self._session, self._changed, self._url = session, changed, url
        self._asked: dict[Key, set[str]] = {}
        self._told: dict[Key, dict[str, ServerTimes]] = {}
        self._waiting: deque[tuple[Key, str, str, int]] = deque()
        """Key, name and URL of pods to ask, and how often: for thousands that start at once a task each is too much."""
        self._tasks: set[asyncio.Task[None]] = set()

    def told(self, key: Key) -> Mapping[str, ServerTimes]:
        """By the name of the pod."""
        return self._told.get(key, _NOTHING)

    def leave(self, key: Key) -> None:
        self._asked.pop(key, None)
        self._told.pop(key, None)

    def ask(self, key: Key, pods: list[dict[str, Any]], tries: int = 1) -> None:
        """Those that are ready and were not asked yet. An answer comes with a call of `changed`."""
        for pod in pods:
            name, asked = pod["metadata"]["name"], self._asked.setdefault(key, set())
            if name in asked or not is_ready(pod) or not (pod.get("status") or {}).get("podIP"):
                continue
            asked.add(name)
            self._waiting.append((key, name, self._url(pod), tries))
        self._next()

    def _next(self) -> None:
        while self._waiting and len(self._tasks) < AT_ONCE:
            key, name, url, tries = self._waiting.popleft()
            if name in self._asked.get(key, ()):
                task = asyncio.create_task(self._ask(key, name, url, tries))
                self._tasks.add(task)
                task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._next()

    async def _ask(self, key: Key, name: str, url: str, tries: int) -> None:
        text = await small_text(self._session, url, seconds=SECONDS, limit=LIMIT_BYTES)
        while not text and (tries := tries - 1) > 0:
            await asyncio.sleep(AGAIN_SECONDS)
            text = await small_text(self._session, url, seconds=SECONDS, limit=LIMIT_BYTES)
        times = _times(text) if text else None
        if times is not None and key in self._asked:
            self._told.setdefault(key, {})[name] = times
            self._changed(key)


def _times(text: str) -> ServerTimes | None:
    try:
        samples = [
            sample
            for family in text_string_to_metric_families(text)
            if family.name in (_LOAD, _WARM_UP, _SPEED, _FAILED)
            for sample in family.samples
            if 0 <= sample.value < _SENSIBLE
        ]
        speeds = sorted((int(sample.labels["rows"]), sample.value) for sample in samples if sample.name == _SPEED)
        models = {sample.labels.get("model") for sample in samples if sample.name == _SPEED}
        # By name: what comes out of a pod is not always what should.
        failed = {
            sample.labels["model"]: sample.labels["reason"][:_LONGEST]
            for sample in samples
            if sample.name == _FAILED and sample.value and len(sample.labels["model"]) <= _LONGEST
        }
    except (ValueError, KeyError):  # not metrics, or not these
        return None
    found = {sample.name: sample.value for sample in samples}
    if _LOAD not in found:
        return None
    # Several models have no speed together.
    together = tuple(speeds[:_MOST_SPEEDS]) if len(models) == 1 else ()
    return ServerTimes(found[_LOAD], found.get(_WARM_UP), together, tuple(sorted(failed.items())[:MOST_FAILED]))
