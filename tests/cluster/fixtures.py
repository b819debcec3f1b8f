"""pytest fixtures: the two tiers, each brought up once, or skipped with the reason.

A cluster that is up already is used and left up. What the tests brought up is taken down when all of them have ended,
unless MOORAGE_KEEP_CLUSTER=1. A run that was killed is cleaned by `python -m cluster down`.

When pytest-xdist spreads the tests over several workers, the full tier is one for all of them: the first worker brings
it up, the others wait for it. Each worker has an API tier of its own: it is up in seconds.
"""

import os
from contextlib import AbstractContextManager, nullcontext

import pytest

from cluster import runs
from cluster.choice import open_cluster, unavailable
from cluster.interface import Cluster, Tier
from cluster.lifecycle import tier_of
from cluster.names import Names, default_name
from cluster.progress import Progress

WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")  # "" where pytest is one process, and in the one that directs others


def pytest_configure() -> None:
    runs.begin()


def seen(config: pytest.Config) -> AbstractContextManager[None]:
    """Lets through what is printed: the first build takes many minutes, and silence would look like a hang."""
    manager = config.pluginmanager.getplugin("capturemanager")
    return manager.global_and_fixture_disabled() if manager else nullcontext()


def name_of(tier: Tier) -> str:
    own = f"-{WORKER}" if WORKER and tier == "api" else ""
    return default_name(tier) + own


def lent(tier: Tier, config: pytest.Config) -> Cluster:
    reason = unavailable(tier)
    if reason:
        pytest.skip(reason)
    opened = open_cluster(tier, name_of(tier))
    was_up = opened.status().up
    try:
        with seen(config):
            opened.up(Progress())
    finally:
        if not was_up:
            runs.claim(Names(opened.name))
    return opened


@pytest.fixture(scope="session")
def cluster(pytestconfig: pytest.Config) -> Cluster:
    """The full tier: containers run."""
    return lent("full", pytestconfig)


@pytest.fixture(scope="session")
def api_cluster(pytestconfig: pytest.Config) -> Cluster:
    """The API tier: real API server and controllers, nodes by KWOK, no containers."""
    return lent("api", pytestconfig)


@pytest.hookimpl(trylast=True)  # after the fixtures' own ends and the workers'
def pytest_sessionfinish() -> None:
    if not WORKER and os.environ.get("MOORAGE_KEEP_CLUSTER") != "1":
        for name in runs.claimed():
            open_cluster(tier_of(name), name).down(Progress())
