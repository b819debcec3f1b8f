"""Only namespaces that this cluster made are its own to remove; a file without a namespace behind it is repaired."""

import os
import shutil
from collections.abc import Iterator

import pytest

from cluster.commands import run
from cluster.names import Names
from cluster.network import begin, netns_file, ours


@pytest.mark.parametrize("netns", ["blue-cp", "blue-node1", "blue-node12"])
def test_its_own(netns: str) -> None:
    assert ours(Names("blue"), netns)


@pytest.mark.parametrize(
    "netns", ["7", "12345", "green-node1", "blue-node", "blue-nodex", "blue-node1-old", "my-blue-cp"]
)
def test_of_others(netns: str) -> None:
    assert not ours(Names("blue"), netns)


@pytest.fixture
def stale() -> Iterator[str]:
    """As a kill between `ip netns add`'s two steps leaves it."""
    if os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("network namespaces need root and iproute2")
    name = f"stale-{os.getpid()}"
    run("ip", "netns", "add", name)
    run("umount", netns_file(name))
    yield name
    run("ip", "netns", "del", name)


def test_a_file_without_a_namespace_counts_as_none(stale: str) -> None:
    assert begin(stale)
    run("ip", "-n", stale, "link", "set", "lo", "up")
    assert begin(stale), "not whole yet: it has no default route"
    run("ip", "-n", stale, "link", "set", "lo", "up")
    run("ip", "-n", stale, "route", "add", "default", "dev", "lo")
    assert not begin(stale)
