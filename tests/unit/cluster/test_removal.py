"""Taking a cluster down goes on after a step that fails, tells every failure, and keeps what a second try needs."""

from pathlib import Path

import pytest

from cluster.interface import ClusterError
from cluster.lifecycle import Removal
from cluster.names import Names


@pytest.fixture
def names(tmp_path: Path) -> Names:
    names = Names("blue", tmp_path)
    names.state.mkdir(parents=True)
    return names


def broken() -> None:
    raise ClusterError("Device or resource busy")


def test_every_step_is_tried_and_every_failure_told(names: Names) -> None:
    done = []
    with pytest.raises(ClusterError) as caught, Removal(names) as removal:
        removal.attempt("the cgroups", broken)
        removal.attempt("the network", lambda: done.append("network"))
        removal.attempt("the settings", broken)
    assert done == ["network"]
    assert str(caught.value).splitlines() == [
        "blue is not wholly gone:",
        "  the cgroups: Device or resource busy",
        "  the settings: Device or resource busy",
    ]
    assert names.state.exists(), "`down` finds the cluster by it"


def test_the_folder_goes_last_and_with_it_the_folder_of_all(names: Names) -> None:
    with Removal(names) as removal:
        removal.attempt("a step", lambda: None)
    assert not names.state.parent.exists()


def test_other_clusters_keep_theirs(names: Names) -> None:
    (names.state.parent / "green").mkdir()
    with Removal(names):
        pass
    assert [path.name for path in names.state.parent.iterdir()] == ["green"]
