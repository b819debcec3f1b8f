"""The API server as dicts in and dicts out, with a few errors of our own.

`kubernetes.aio` brings configuration, TLS and tokens. Its requests stay out: their layers cost two thirds of the CPU of
one (docs/design.md), and its typed models drop what they do not know. No retries here: whoever calls knows whether a
retry makes sense.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import orjson

from moorage import telemetry
from moorage.kube.errors import ApiError, NotFound, Transient, error_from
from moorage.kube.kinds import LEASE, Kind, kind_of
from moorage.kube.library import (
    ConfigException,
    Configuration,
    RESTClientObject,
    load_incluster_config,
    load_kube_config,
)

FIELD_MANAGER = "moorage"
PAGE = 100
JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
# JSON is YAML as long as nothing is escaped: YAML knows no escapes for 🚢.
APPLY_PATCH = "application/apply-patch+yaml"

Manifest = dict[str, Any]


# A watch that the API server ends by itself; and without a bookmark, which it sends each minute, the line is dead.
WATCH_SECONDS = 290
WATCH_SILENCE = 100


@dataclass(frozen=True, slots=True)
class Listing:
    items: list[Manifest]
    resource_version: int


async def load_configuration() -> Configuration:
    """From the pod's ServiceAccount, or else from KUBECONFIG. Read anew on each call, so that a new token is found."""
    configuration = Configuration()
    explicit = os.environ.get("KUBECONFIG")
    if explicit is None and "KUBERNETES_SERVICE_HOST" in os.environ:
        load_incluster_config(client_configuration=configuration)
    else:
        path = explicit or str(Path.home() / ".kube" / "config")
        if not all(_exists(part) for part in path.split(os.pathsep) if part):
            raise ConfigException(f"no kubeconfig at {path}: set KUBECONFIG, or run the operator in a cluster")
        await load_kube_config(config_file=path, client_configuration=configuration)
    configuration.proxy = configuration.proxy or _proxy_of_environment(configuration.host)
    return configuration


def _proxy_of_environment(host: str) -> str | None:
    # Asked once: aiohttp's trust_env asks before each request, in a thread, at the price of a request.
    parts = urlsplit(host)
    return None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)


def _exists(path: str) -> bool:
    return Path(path).expanduser().exists()


class Client:
    """Made within a running loop."""

    def __init__(
        self, configuration: Configuration, *, request_timeout: float = 30, user_agent: str = "moorage-operator"
    ) -> None:
        self._configuration, self._timeout = configuration, request_timeout
        # Watches hold a connection each, and what else is under way at the same time is bounded by the workers.
        connector = aiohttp.TCPConnector(limit=0, ssl=RESTClientObject(configuration).ssl_context)
        # Compressing a list costs the API server three times the CPU and is no faster.
        headers = {"Accept": JSON, "Accept-Encoding": "identity", "User-Agent": user_agent}
        self._session = aiohttp.ClientSession(connector=connector, headers=headers, cookie_jar=aiohttp.DummyCookieJar())
        self.may_write: Callable[[], bool] = lambda: True
        """Asked before every write but the lease's: a process that was frozen for a while may not lead any more, and
        does not know it yet."""

    @classmethod
    async def connect(cls, *, request_timeout: float, user_agent: str) -> Client:
        return cls(await load_configuration(), request_timeout=request_timeout, user_agent=user_agent)

    async def close(self) -> None:
        await self._session.close()

    async def get(self, kind: Kind, namespace: str, name: str, *, timeout: float | None = None) -> Manifest:
        return await self._request("GET", kind.path(namespace, name), kind.plural, timeout=timeout)

    async def list(self, kind: Kind, namespace: str | None = None, *, labels: str = "", fields: str = "") -> Listing:
        """All of them at once: for what is known to be few."""
        items: list[Manifest] = []
        async for page in self.pages(kind, namespace, labels=labels, fields=fields):
            items += page.items
        return Listing(items, page.resource_version)

    async def pages(
        self, kind: Kind, namespace: str | None = None, *, labels: str = "", fields: str = "", limit: int = PAGE
    ) -> AsyncIterator[Listing]:
        """Page by page, so that ten thousand need the memory of a few hundred. Items of built-in kinds come without
        kind and apiVersion: they are filled in. Raises Expired where a list took longer than the API server keeps it.
        """
        token = ""
        while True:
            query = {"limit": str(limit)}
            if labels:
                query["labelSelector"] = labels
            if fields:
                query["fieldSelector"] = fields
            if token:
                query["continue"] = token
            page = await self._request("GET", kind.path(namespace), kind.plural, query=query, verb="list")
            items = page.get("items") or []
            for item in items:
                item["kind"] = kind.kind
                item["apiVersion"] = kind.api_version
            yield Listing(items, int(page["metadata"]["resourceVersion"]))
            token = page["metadata"].get("continue", "")
            if not token:
                return

    async def watch(
        self, kind: Kind, namespace: str | None = None, *, labels: str = "", since: int
    ) -> AsyncIterator[Manifest | None]:
        """What happens after `since`, as {type, object}; bookmarks too. The first is None: the watch stands. Ends when
        the API server ends it, by and by. Raises Expired where `since` is too long ago, Transient when the connection
        breaks or falls silent."""
        query = {
            "watch": "true",
            "resourceVersion": str(since),
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        if labels:
            query["labelSelector"] = labels
        path = kind.path(namespace)
        quiet = aiohttp.ClientTimeout(total=None, connect=5, sock_read=WATCH_SILENCE)
        response: aiohttp.ClientResponse | None = None
        try:
            async with asyncio.timeout(self._timeout):
                response = await self._send("GET", path, query, None, JSON, quiet)
            if response.status >= 400:
                raise error_from(response.status, await response.read(), response.headers)
            yield None
            async for line in _lines(response.content):
                event = orjson.loads(line)
                if event["type"] == "ERROR":
                    answer = event["object"]
                    raise error_from(int(answer.get("code") or 500), orjson.dumps(answer), {})
                yield event
        except TimeoutError as error:
            raise Transient(f"the watch of {kind.plural} is silent", reason="Timeout") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Transient(f"the watch of {kind.plural} broke: {error}", reason="Unreachable") from error
        finally:
            code = str(response.status) if response is not None else "error"
            telemetry.API_REQUESTS.labels("watch", kind.plural, code).inc()
            if response is not None:
                response.close()

    async def apply(self, manifest: Manifest, *, force: bool = True) -> Manifest:
        """Server-side apply: what the manifest says is ours, whatever it does not say is not. Without `force` a field
        that somebody else has set otherwise is a Conflict."""
        kind, meta = kind_of(manifest), manifest["metadata"]
        return await self._request(
            "PATCH",
            kind.path(meta["namespace"], meta["name"]),
            kind.plural,
            query={"fieldManager": FIELD_MANAGER, "force": str(force).lower()},
            body=manifest,
            content_type=APPLY_PATCH,
            verb="apply",
        )

    async def patch_status(self, kind: Kind, namespace: str, name: str, patch: Manifest) -> Manifest:
        path = kind.path(namespace, name, "status")
        query = {"fieldManager": FIELD_MANAGER}
        return await self._request(
            "PATCH", path, f"{kind.plural}/status", query=query, body=patch, content_type=MERGE_PATCH, verb="patch"
        )

    async def patch(self, kind: Kind, namespace: str, name: str, patch: Manifest) -> Manifest:
        path = kind.path(namespace, name)
        return await self._request("PATCH", path, kind.plural, body=patch, content_type=MERGE_PATCH, verb="patch")

    async def create(self, kind: Kind, namespace: str, manifest: Manifest, *, timeout: float | None = None) -> Manifest:
        return await self._request("POST", kind.path(namespace), kind.plural, body=manifest, timeout=timeout)

    async def replace(
        self, kind: Kind, namespace: str, name: str, manifest: Manifest, *, timeout: float | None = None
    ) -> Manifest:
        path = kind.path(namespace, name)
        return await self._request("PUT", path, kind.plural, body=manifest, timeout=timeout)

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str, after_dependents: bool = False) -> None:
        """Only the very object that was seen; before what it owns, or after that is gone. One that is gone is as good
        as deleted."""
        policy = "Foreground" if after_dependents else "Background"
        body = {"propagationPolicy": policy, "preconditions": {"uid": uid}}
        try:
            await self._request("DELETE", kind.path(namespace, name), kind.plural, body=body)
        except NotFound:
            return

    async def serves(self, kind: Kind) -> bool:
        """Whether discovery knows the kind."""
        path = f"/apis/{kind.api_version}" if kind.group else f"/api/{kind.version}"
        try:
            answer = await self._request("GET", path, "discovery")
        except NotFound:
            return False
        return any(resource["name"] == kind.plural for resource in answer.get("resources") or [])

    async def _request(
        self,
        method: str,
        path: str,
        resource: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Manifest | None = None,
        content_type: str = JSON,
        timeout: float | None = None,
        verb: str = "",
    ) -> Manifest:
        if method != "GET" and resource != LEASE.plural and not self.may_write():
            raise Transient("the lease has not been renewed in time: another may lead by now", reason="NotLeading")
        code, total = "error", timeout or self._timeout
        limits = aiohttp.ClientTimeout(total=total, connect=min(5, total))
        try:
            response = await self._send(method, path, query, body, content_type, limits)
            content = await response.read()
            code = str(response.status)
        except TimeoutError as error:
            raise Transient(f"the API server did not answer {method} {path} in time", reason="Timeout") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Transient(f"the API server is out of reach: {error}", reason="Unreachable") from error
        finally:
            telemetry.API_REQUESTS.labels(verb or method.lower(), resource, code).inc()
        if response.status >= 400:
            raise error_from(response.status, content, response.headers)
        try:
            answer = orjson.loads(content)
        except ValueError as error:
            raise Transient(f"the API server answered {method} {path} with something else than JSON") from error
        if not isinstance(answer, dict):
            raise ApiError(f"the API server answered {method} {path} with {type(answer).__name__}")
        return answer

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Manifest | None,
        content_type: str,
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        configuration = self._configuration
        url = f"{configuration.host}{path}{'?' + urlencode(query) if query else ''}"
        headers = {"Content-Type": content_type} if body is not None else {}
        # It reads a token anew that is about to expire.
        if token := await configuration.get_api_key_with_prefix("BearerToken", alias="authorization"):
            headers["Authorization"] = token
        return await self._session.request(
            method,
            url,
            data=None if body is None else orjson.dumps(body),
            headers=headers,
            timeout=timeout,
            proxy=configuration.proxy,
            proxy_headers=configuration.proxy_headers,
            server_hostname=configuration.tls_server_name,
        )


async def _lines(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """An object may be larger than what aiohttp takes for a line."""
    rest = b""
    async for chunk in stream.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line:
                yield line
