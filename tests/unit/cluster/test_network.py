"""Only namespaces that this cluster made are its own to remove."""

import pytest

from cluster.names import Names
from cluster.network import ours


@pytest.mark.parametrize("netns", ["blue-cp", "blue-node1", "blue-node12"])
def test_its_own(netns: str) -> None:
    assert ours(Names("blue"), netns)


@pytest.mark.parametrize(
    "netns", ["7", "12345", "green-node1", "blue-node", "blue-nodex", "blue-node1-old", "my-blue-cp"]
)
def test_of_others(netns: str) -> None:
    assert not ours(Names("blue"), netns)
