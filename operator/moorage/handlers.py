"""kopf's events become store entries and keys. No logic, no writes: kopf is the door and nothing else.

Only `on.event` is used: every other kind of kopf handler writes annotations or finalizers, or costs more than linear
time with thousands of objects. Credentials are ours, so that kopf and the client always agree on who they are.
"""

from __future__ import annotations

from typing import Any

import kopf

from moorage import telemetry
from moorage.kube.client import load_configuration
from moorage.kube.kinds import CHILDREN, OWNERS, Kind, key_of
from moorage.reconcile.queue import WorkQueue
from moorage.reconcile.resync import CHILD_SELECTOR
from moorage.reconcile.store import Store
from moorage.reconcile.triggers import keys_for


def registry(store: Store, queue: WorkQueue) -> kopf.OperatorRegistry:
    handlers = kopf.OperatorRegistry()

    async def seen(event: Any, **_: Any) -> None:
        take(store, queue, event["type"], event["object"])

    for kind in (*OWNERS, *CHILDREN):
        kopf.on.event(kind.group, kind.version, kind.plural, registry=handlers, id=kind.plural)(seen)
    kopf.on.login(registry=handlers, id="login")(login)
    return handlers


def take(store: Store, queue: WorkQueue, type_: str | None, obj: dict[str, Any]) -> None:
    """One watch event into the store; the keys it concerns into the queue."""
    telemetry.WATCH_EVENTS.labels(obj["kind"], (type_ or "listed").lower()).inc()
    key = key_of(obj)
    before = store.get(key)
    if type_ == "DELETED":
        store.remove(obj)
        before = before or obj
        changed = store.get(key) is None
    else:
        changed = store.put(obj)
    store.watched(obj)
    if changed:
        for concerned in keys_for(store, before, store.get(key)):
            queue.add(concerned)


async def login(**_: Any) -> kopf.ConnectionInfo:
    """Asked at the start and after every 401: a token that was replaced on disk is read anew."""
    configuration = await load_configuration()
    header = await configuration.get_api_key_with_prefix("BearerToken") or ""
    scheme, _separator, token = header.strip().rpartition(" ")
    return kopf.ConnectionInfo(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        insecure=not configuration.verify_ssl,
        scheme=scheme.capitalize() or None,
        token=token or None,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
        proxy_url=configuration.proxy,
    )


class _NoDiffBase(kopf.DiffBaseStorage):
    """kopf would copy every object several times to find out what changed in it. Nobody here asks."""

    def build(self, *, body: Any, extra_fields: Any = None) -> Any:
        return {}

    def fetch(self, *, body: Any) -> Any:
        return None

    def store(self, *, body: Any, patch: Any, essence: Any) -> None:
        pass


class _NoProgress(kopf.ProgressStorage):
    """Handlers here have no progress to keep: they carry a key and return."""

    def fetch(self, *, key: Any, body: Any) -> Any:
        return None

    def store(self, *, key: Any, record: Any, body: Any, patch: Any) -> None:
        pass

    def purge(self, *, key: Any, body: Any, patch: Any) -> None:
        pass

    def touch(self, *, body: Any, patch: Any, value: Any) -> None:
        pass

    def clear(self, *, essence: Any) -> Any:
        return essence


def settings() -> kopf.OperatorSettings:
    """Each of these was measured or has bitten somebody; the reasons stand beside them."""
    result = kopf.OperatorSettings()
    result.scanning.disabled = True  # no rights on CRDs and namespaces; a vanished CRD ends the process anyway
    result.peering.standalone = True  # a Lease elects the leader; peering would freeze both of two equals
    result.posting.enabled = False  # Events are written on transitions only, by us
    result.watching.chunk_size = 500  # half the memory of whole lists
    result.watching.reconnect_backoff = 0.1
    result.queueing.idle_timeout = 0.05  # the default of 5 s keeps a task for each object that ever changed
    result.queueing.exit_timeout = 0.5
    result.networking.request_timeout = 30
    result.networking.connect_timeout = 10
    result.networking.error_backoffs = (0.5, 1, 1, 2, 3, 5)  # recovery after an outage never lags 21 s
    result.process.ultimate_exiting_timeout = 30
    result.persistence.diffbase_storage = _NoDiffBase()
    result.persistence.progress_storage = _NoProgress()
    for kind in CHILDREN:
        result.watching.label_selectors[kind.group, kind.version, kind.plural] = CHILD_SELECTOR
    return result


def watcher_names(namespaces: tuple[str, ...]) -> set[str]:
    """The asyncio tasks that must be alive while kopf watches all it should."""

    def resource(kind: Kind) -> str:
        return f"{kind.plural}.{kind.version}.{kind.group}".strip(".")

    return {
        f"watcher for {resource(kind)}@{namespace}"
        for kind in (*OWNERS, *CHILDREN)
        for namespace in (namespaces or (None,))
    }
