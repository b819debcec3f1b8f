"""pytest fixtures: the two tiers, each brought up once for all tests, or skipped with the reason.

A cluster that is up already is used and left up. One that the tests brought up is taken down at their end, unless
MOORAGE_KEEP_CLUSTER=1. A run that was killed is cleaned by `python -m cluster down`.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import pytest

from cluster.choice import open_cluster, unavailable
from cluster.interface import Cluster, Tier
from cluster.progress import Progress


def seen(config: pytest.Config) -> AbstractContextManager[None]:
    """Lets through what is printed: the first build takes many minutes, and silence would look like a hang."""
    manager = config.pluginmanager.getplugin("capturemanager")
    return manager.global_and_fixture_disabled() if manager else nullcontext()


def lent(tier: Tier, config: pytest.Config) -> Iterator[Cluster]:
    reason = unavailable(tier)
    if reason:
        pytest.skip(reason)
    opened = open_cluster(tier)
    was_up = opened.status().up
    progress = Progress()
    try:
        with seen(config):
            opened.up(progress)
        yield opened
    finally:
        if not was_up and os.environ.get("MOORAGE_KEEP_CLUSTER") != "1":
            opened.down(progress)


@pytest.fixture(scope="session")
def cluster(pytestconfig: pytest.Config) -> Iterator[Cluster]:
    """The full tier: containers run."""
    yield from lent("full", pytestconfig)


@pytest.fixture(scope="session")
def api_cluster(pytestconfig: pytest.Config) -> Iterator[Cluster]:
    """The API tier: real API server and controllers, nodes by KWOK, no containers."""
    yield from lent("api", pytestconfig)
