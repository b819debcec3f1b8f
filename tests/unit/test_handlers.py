"""kopf is asked for our own two kinds, and to write nothing."""

from moorage import handlers


def test_kopf_watches_what_the_liveness_check_expects() -> None:
    names = handlers.watcher_names(())
    assert "watcher for modeldeployments.v1alpha1.moorage.dev@None" in names
    assert "watcher for trainingjobs.v1alpha1.moorage.dev@ns" in handlers.watcher_names(("ns",))


def test_kopf_writes_nothing() -> None:
    settings = handlers.settings()
    assert settings.scanning.disabled
    assert settings.peering.standalone
    assert not settings.posting.enabled
