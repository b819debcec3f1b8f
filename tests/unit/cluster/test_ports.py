"""Ports: the cluster's own, never somebody else's, and the same again while they are held."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import ports
from cluster.interface import ClusterError


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_taken_port_is_passed_over(tmp_path: Path, taken: int) -> None:
    [other] = ports.unused(1)
    assert ports.claim(tmp_path, ["api"], [taken, other], keep=False) == {"api": other}


def test_the_same_again_while_the_cluster_s_own_programs_hold_it(tmp_path: Path, taken: int) -> None:
    (tmp_path / "ports.json").write_text(f'{{"api": {taken}}}')
    assert ports.claim(tmp_path, ["api"], ports.unused(1), keep=True) == {"api": taken}


def test_another_when_somebody_took_it_meanwhile(tmp_path: Path, taken: int) -> None:
    (tmp_path / "ports.json").write_text(f'{{"api": {taken}}}')
    [other] = ports.unused(1)
    assert ports.claim(tmp_path, ["api"], [other], keep=False) == {"api": other}


def test_none_left_says_what_to_do(tmp_path: Path, taken: int) -> None:
    with pytest.raises(ClusterError, match="--name"):
        ports.claim(tmp_path, ["api"], [taken], keep=False)
