"""The client against a small HTTP server: what goes out, and what comes of answers that are not the usual ones."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio.client import Configuration

from moorage.kube import client as module
from moorage.kube.client import Client
from moorage.kube.errors import NotFound, Transient
from moorage.kube.kinds import DEPLOYMENT, LEASE, MODEL_DEPLOYMENT

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
DEPLOYMENTS = "/apis/apps/v1/namespaces/ns/deployments"


class Server:
    """Answers with whatever the test put in, and keeps the requests."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, str], dict[str, str], Any]] = []
        self.answer: Handler = self._nothing

    async def _nothing(self, _request: web.Request) -> web.Response:
        return web.json_response({"kind": "Status", "message": "not found"}, status=404)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json() if request.can_read_body else None
        self.requests.append((request.method, request.path, dict(request.query), dict(request.headers), body))
        return await self.answer(request)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    yield Server()


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    async with TestServer(app) as running:
        configuration = Configuration(host=str(running.make_url("")).rstrip("/"))
        client = Client(configuration, request_timeout=5, user_agent="moorage-operator/test")
        yield client
        await client.close()


def page(names: list[str], token: str = "", version: str = "7") -> dict[str, Any]:
    return {
        "metadata": {"resourceVersion": version, "continue": token},
        "items": [{"metadata": {"name": n}} for n in names],
    }


async def test_an_apply_is_forced_under_our_name(server: Server, client: Client) -> None:
    manifest = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "namespace": "ns"}}

    async def answer(_request: web.Request) -> web.Response:
        return web.json_response({**manifest, "status": {}})

    server.answer = answer
    assert (await client.apply(manifest))["status"] == {}
    method, path, query, headers, body = server.requests[0]
    assert (method, path) == ("PATCH", f"{DEPLOYMENTS}/a")
    assert query == {"fieldManager": "moorage", "force": "true"}
    assert headers["Content-Type"] == "application/apply-patch+yaml"
    assert headers["User-Agent"] == "moorage-operator/test"
    assert headers["Accept-Encoding"] == "identity"
    assert body == manifest


async def test_a_list_has_all_pages_and_says_what_its_items_are(server: Server, client: Client) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response(page(["b"]) if "continue" in request.query else page(["a"], token="next"))

    server.answer = answer
    listing = await client.list(DEPLOYMENT, "ns", labels="app=x")
    assert [item["metadata"]["name"] for item in listing.items] == ["a", "b"]
    # The API server leaves both out of lists; without them every child would look different from what we want.
    assert {(item["kind"], item["apiVersion"]) for item in listing.items} == {("Deployment", "apps/v1")}
    assert listing.resource_version == 7
    assert [request[2]["labelSelector"] for request in server.requests] == ["app=x", "app=x"]


async def test_an_apply_is_sent_as_it_is_written(server: Server, client: Client) -> None:
    """What the API server reads as YAML has no escapes for what lies beyond the first 65,536 characters."""
    raw = []

    async def answer(request: web.Request) -> web.Response:
        raw.append(await request.read())
        return web.json_response({})

    server.answer = answer
    meta = {"name": "a", "namespace": "ns", "annotations": {"words": "größe 七 🚢"}}
    await client.apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta})
    assert "größe 七 🚢".encode() in raw[0]


async def test_what_is_new_is_not_forced_upon_somebody_elses(server: Server, client: Client) -> None:
    manifest = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "namespace": "ns"}}
    with pytest.raises(NotFound):
        await client.apply(manifest, force=False)
    assert server.requests[0][2]["force"] == "false"


async def test_who_may_not_lead_any_more_writes_nothing_but_its_lease(server: Server, client: Client) -> None:
    client.may_write = lambda: False
    manifest = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "namespace": "ns"}}
    for write in (client.apply(manifest), client.patch_status(DEPLOYMENT, "ns", "a", {})):
        with pytest.raises(Transient, match="lease"):
            await write
    assert server.requests == []
    with pytest.raises(NotFound):
        await client.create(LEASE, "ns", {"spec": {}})
    assert [request[0] for request in server.requests] == ["POST"]


async def test_a_server_that_does_not_answer_is_a_trouble_of_the_moment(server: Server, client: Client) -> None:
    async def answer(_request: web.Request) -> web.Response:
        await asyncio.sleep(60)
        raise AssertionError

    server.answer = answer
    with pytest.raises(Transient, match="did not answer"):
        await client.get(DEPLOYMENT, "ns", "a", timeout=0.2)


async def test_a_server_that_is_not_there_is_a_trouble_of_the_moment() -> None:
    client = Client(Configuration(host="http://127.0.0.1:9"), request_timeout=5)
    try:
        with pytest.raises(Transient, match="out of reach"):
            await client.get(DEPLOYMENT, "ns", "a")
    finally:
        await client.close()


async def test_a_delete_means_the_object_that_was_seen(server: Server, client: Client) -> None:
    await client.delete(DEPLOYMENT, "ns", "a", uid="u1")  # 404: it is gone, which is what was asked for
    assert server.requests[0][4] == {"propagationPolicy": "Background", "preconditions": {"uid": "u1"}}
    await client.delete(DEPLOYMENT, "ns", "a", uid="u1", after_dependents=True)
    assert server.requests[1][4] == {"propagationPolicy": "Foreground", "preconditions": {"uid": "u1"}}


async def test_discovery_tells_which_kinds_there_are(server: Server, client: Client) -> None:
    assert not await client.serves(MODEL_DEPLOYMENT)

    async def answer(_request: web.Request) -> web.Response:
        return web.json_response({"resources": [{"name": "modeldeployments"}, {"name": "modeldeployments/status"}]})

    server.answer = answer
    assert await client.serves(MODEL_DEPLOYMENT)


async def test_errors_are_ours(client: Client) -> None:
    with pytest.raises(NotFound):
        await client.patch_status(MODEL_DEPLOYMENT, "ns", "a", {"status": {}})


@pytest.mark.parametrize(("spared", "proxy"), [("", "http://proxy:3128"), ("10.96.0.1", None)])
async def test_a_pod_asks_by_way_of_the_proxy_that_its_environment_names(
    spared: str, proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    environment = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": spared}
    for name, value in environment.items():
        monkeypatch.delenv(name.lower(), raising=False)
        monkeypatch.setenv(name, value)

    def in_a_pod(client_configuration: Configuration) -> None:
        client_configuration.host = "https://10.96.0.1:443"

    monkeypatch.setattr(module, "load_incluster_config", in_a_pod)
    assert (await module.load_configuration()).proxy == proxy
