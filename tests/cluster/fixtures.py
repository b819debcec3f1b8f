"""pytest fixtures: the two tiers, each brought up once for all tests, or skipped with the reason.

A cluster that is up already is used and left up. One that the tests brought up is taken down at their end, unless
MOORAGE_KEEP_CLUSTER=1. A run that was killed is cleaned by `python -m cluster down`.
"""

import os
from collections.abc import Iterator

import pytest

from cluster.choice import open_cluster, unavailable
from cluster.interface import Cluster, Tier
from cluster.progress import Progress


def lent(tier: Tier) -> Iterator[Cluster]:
    reason = unavailable(tier)
    if reason:
        pytest.skip(reason)
    opened = open_cluster(tier)
    was_up = opened.status().up
    progress = Progress()
    try:
        opened.up(progress)
        yield opened
    finally:
        if not was_up and os.environ.get("MOORAGE_KEEP_CLUSTER") != "1":
            opened.down(progress)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The full tier: containers run."""
    yield from lent("full")


@pytest.fixture(scope="session")
def api_cluster() -> Iterator[Cluster]:
    """The API tier: real API server and controllers, nodes by KWOK, no containers."""
    yield from lent("api")
