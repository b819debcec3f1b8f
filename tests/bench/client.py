"""Requests to the API server as cheap as Python makes them: bytes in, bytes out, a fixed number in flight.

It shares the cores with what it measures, and it is also the limit that the operator is held against.
"""

import asyncio
import base64
import ssl
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Self, TypeVar

import aiohttp
import orjson
import yaml

T = TypeVar("T")
JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
MODEL_DEPLOYMENTS = "/apis/moorage.dev/v1alpha1/modeldeployments"


def model_deployments(namespace: str, name: str = "", subresource: str = "") -> str:
    parts = (f"/apis/moorage.dev/v1alpha1/namespaces/{namespace}/modeldeployments", name, subresource)
    return "/".join(part for part in parts if part)


class Refused(Exception):
    """The API server answered with an error; the message holds its words."""


class Api:
    """One user's connection to the API server."""

    def __init__(self, kubeconfig: Path, *, in_flight: int = 32) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self.server: str = cluster["server"]
        self._headers = {"Authorization": f"Bearer {user['token']}"}
        self._trust = ssl.create_default_context(
            cadata=base64.b64decode(cluster["certificate-authority-data"]).decode()
        )
        self.in_flight = in_flight

    async def __aenter__(self) -> Self:
        # One more than are in flight, for a watch.
        connector = aiohttp.TCPConnector(ssl=self._trust, limit=self.in_flight + 1)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        self.session = aiohttp.ClientSession(self.server, headers=self._headers, connector=connector, timeout=timeout)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()

    async def call(self, method: str, path: str, body: bytes | None = None, content_type: str = JSON) -> bytes:
        async with asyncio.timeout(60), self.session.request(
            method, path, data=body, headers={"Content-Type": content_type}
        ) as answer:  # fmt: skip
            content = await answer.read()
            if answer.status >= 400:
                raise Refused(f"{method} {path}: {answer.status} {content[:500].decode(errors='replace')}")
            return content

    async def post(self, path: str, body: Any) -> Any:
        return orjson.loads(await self.call("POST", path, orjson.dumps(body)))

    async def patch(self, path: str, body: Any) -> bytes:
        return await self.call("PATCH", path, orjson.dumps(body), MERGE_PATCH)

    async def delete(self, path: str) -> bytes:
        return await self.call("DELETE", path)

    async def get(self, path: str) -> Any:
        return orjson.loads(await self.call("GET", path))

    async def count(self, path: str) -> int:
        """How many objects a list would have, without making it."""
        page = await self.get(f"{path}?limit=1")
        return len(page["items"]) + int(page["metadata"].get("remainingItemCount") or 0)

    async def each(self, items: Iterable[T], work: Callable[[T], Awaitable[object]]) -> None:
        """Work on all items, as many at a time as may be in flight."""
        waiting = iter(items)

        async def worker() -> None:
            for item in waiting:
                await work(item)

        async with asyncio.TaskGroup() as group:
            for _ in range(self.in_flight):
                group.create_task(worker())
