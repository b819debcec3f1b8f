"""Watch events become store entries and keys; what was known already becomes nothing."""

from typing import Any

import pytest

from moorage import handlers
from moorage.kube.kinds import Key
from moorage.reconcile.queue import WorkQueue
from moorage.reconcile.store import Store

KEY = Key("ModelDeployment", "ns", "a")


def service(version: int) -> dict[str, Any]:
    labels = {"moorage.dev/model-deployment": "a"}
    meta = {"name": "a", "namespace": "ns", "uid": "s", "resourceVersion": str(version), "labels": labels}
    return {"kind": "Service", "apiVersion": "v1", "metadata": meta}


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def queue() -> WorkQueue:
    return WorkQueue()


async def test_a_change_is_kept_and_its_owner_has_work(store: Store, queue: WorkQueue) -> None:
    handlers.take(store, queue, "MODIFIED", service(5))
    assert store.get(Key("Service", "ns", "a")) is not None
    assert await queue.get() == KEY


@pytest.mark.parametrize("type_", [None, "ADDED", "MODIFIED"])
async def test_the_echo_of_our_own_write_is_no_work(store: Store, queue: WorkQueue, type_: str | None) -> None:
    store.put(service(5))
    handlers.take(store, queue, type_, service(5))
    assert len(queue) == 0


async def test_a_deletion_is_work_also_of_what_was_not_known(store: Store, queue: WorkQueue) -> None:
    handlers.take(store, queue, "DELETED", service(6))
    assert store.get(Key("Service", "ns", "a")) is None
    assert await queue.get() == KEY


async def test_every_event_is_a_sign_of_life(store: Store, queue: WorkQueue) -> None:
    store.put(service(5))
    store.owe(service(5))
    handlers.take(store, queue, "MODIFIED", service(5))
    assert store.lag() == (0, "")


def test_kopf_watches_what_the_liveness_check_expects() -> None:
    names = handlers.watcher_names(())
    assert "watcher for modeldeployments.v1alpha1.moorage.dev@None" in names
    assert "watcher for services.v1@None" in names
    assert "watcher for deployments.v1.apps@ns" in handlers.watcher_names(("ns",))


def test_kopf_writes_nothing() -> None:
    settings = handlers.settings()
    assert settings.scanning.disabled
    assert settings.peering.standalone
    assert not settings.posting.enabled
