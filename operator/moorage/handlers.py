"""kopf is the door for our own two kinds: what it tells is handed on. No logic, no writes.

What we make out of them is followed by `kube.watch`: it notices what vanished while a watch was down, knows when it has
seen all, and costs a fifth of the CPU for each event. Only `on.event` is used: every other kind of kopf handler writes
annotations or finalizers, or costs more than linear time with thousands of objects. Credentials are ours, so that kopf
and the client always agree on who they are.
"""

from __future__ import annotations

from typing import Any

import kopf

from moorage.kube.client import PAGE, load_configuration
from moorage.kube.kinds import OWNERS, Kind
from moorage.reconcile.intake import Intake


def registry(intake: Intake) -> kopf.OperatorRegistry:
    handlers = kopf.OperatorRegistry()

    async def seen(event: Any, **_: Any) -> None:
        intake.event(event["type"], event["object"])

    for kind in OWNERS:
        kopf.on.event(kind.group, kind.version, kind.plural, registry=handlers, id=kind.plural)(seen)
    kopf.on.login(registry=handlers, id="login")(login)
    return handlers


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
    result.watching.chunk_size = PAGE  # a fraction of the memory of whole lists
    result.watching.reconnect_backoff = 0.1
    result.queueing.idle_timeout = 0.05  # the default of 5 s keeps a task for each object that ever changed
    result.queueing.exit_timeout = 0.5
    result.networking.request_timeout = 30
    result.networking.connect_timeout = 10
    result.networking.error_backoffs = (0.5, 1, 1, 2, 3, 5)  # recovery after an outage never lags 21 s
    result.process.ultimate_exiting_timeout = 30
    result.persistence.diffbase_storage = _NoDiffBase()
    result.persistence.progress_storage = _NoProgress()
    return result


def watcher_names(namespaces: tuple[str, ...]) -> set[str]:
    """The asyncio tasks that must be alive while kopf watches all it should."""

    def resource(kind: Kind) -> str:
        return f"{kind.plural}.{kind.version}.{kind.group}".strip(".")

    return {f"watcher for {resource(kind)}@{namespace}" for kind in OWNERS for namespace in (namespaces or (None,))}
