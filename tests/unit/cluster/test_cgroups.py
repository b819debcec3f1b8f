"""A node's cgroup: made in whatever version the machine has, and removed with all that pods left in it."""

from pathlib import Path

import pytest

from cluster import cgroups
from cluster.interface import ClusterError


def mount(monkeypatch: pytest.MonkeyPatch, **folders: list[Path]) -> None:
    monkeypatch.setattr(cgroups, "mounted", lambda kind: folders.get(kind, []))


@pytest.fixture
def first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with hierarchies of version 1, and a version 2 without controllers beside them."""
    for name in ("cpuset", "memory", "unified"):
        (tmp_path / name).mkdir()
    (tmp_path / "cpuset" / "cpuset.cpus").write_text("0-1\n")
    (tmp_path / "cpuset" / "cpuset.mems").write_text("0\n")
    mount(monkeypatch, cgroup=[tmp_path / "cpuset", tmp_path / "memory"], cgroup2=[tmp_path / "unified"])
    return tmp_path


def test_version_1_gets_one_in_each_hierarchy_and_none_beside(first: Path) -> None:
    cgroups.create("n")
    assert (first / "cpuset" / "n").is_dir() and (first / "memory" / "n").is_dir()
    assert not (first / "unified" / "n").exists()


def test_creating_twice_is_harmless(first: Path) -> None:
    cgroups.create("n")
    cgroups.create("n")


def test_what_pods_left_is_removed_deepest_first_in_every_hierarchy(first: Path) -> None:
    for hierarchy in ("memory", "unified"):
        (first / hierarchy / "n" / "kubepods" / "pod1" / "container").mkdir(parents=True)
    (first / "memory" / "another").mkdir()
    cgroups.remove_children("n")
    assert list((first / "memory" / "n").iterdir()) == []
    cgroups.remove("n")
    assert not (first / "memory" / "n").exists() and not (first / "unified" / "n").exists()
    assert (first / "memory" / "another").is_dir()


def test_one_that_stays_busy_is_an_error_not_a_silent_leftover(first: Path) -> None:
    (first / "memory" / "n").mkdir()
    (first / "memory" / "n" / "tasks").write_text("")  # a folder that cannot be removed
    with pytest.raises(OSError, match="not empty"):
        cgroups.remove("n", timeout=0.05)


def test_version_2_passes_the_controllers_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mount(monkeypatch, cgroup2=[tmp_path])
    for folder in (tmp_path, tmp_path / "n"):
        folder.mkdir(exist_ok=True)
        (folder / "cgroup.controllers").write_text("cpuset cpu io memory hugetlb pids\n")
        (folder / "cgroup.subtree_control").write_text("")
    cgroups.create("n")
    for folder in (tmp_path, tmp_path / "n"):
        assert (folder / "cgroup.subtree_control").read_text() == "+cpu +cpuset +io +memory +pids"


def test_version_2_in_a_container_that_cannot_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mount(monkeypatch, cgroup2=[tmp_path])
    (tmp_path / "cgroup.controllers").write_text("cpu\n")
    (tmp_path / "cgroup.subtree_control").mkdir()  # a file that cannot be written
    with pytest.raises(ClusterError, match="run the cluster on the host, or with Docker"):
        cgroups.create("n")
