"""What the two drivers that run Kubernetes' own programs here (native and api) share: folder, lock, clean-up."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

from cluster import cache
from cluster.interface import ClusterError, Tier
from cluster.names import Names, digest
from cluster.processes import Programs, boot_id
from cluster.progress import Progress


@contextmanager
def exclusively(names: Names, progress: Progress) -> Iterator[None]:
    """One `up` or `down` of a cluster at a time."""
    with cache.lock(f"cluster-{names.name}-{digest(names.marker)[:8]}", progress):
        yield


def enter(names: Names, driver: str) -> None:
    """Makes the cluster's folder ready for a start. What it holds from before a reboot is removed."""
    note = names.state / "boot"
    if note.exists() and note.read_text() != boot_id():
        shutil.rmtree(names.state)
    names.logs.mkdir(parents=True, exist_ok=True)
    (names.state / "driver").write_text(driver)
    note.write_text(boot_id())


def left_by(names: Names) -> str:
    """The driver that this cluster's folder belongs to, "" without one."""
    note = names.state / "driver"
    return note.read_text() if note.exists() else ""


def tier_of(name: str) -> Tier:
    """The tier of a cluster of this checkout, as its folder has it."""
    return "api" if left_by(Names(name)) == "api" else "full"


def remember_nodes(names: Names, count: int) -> None:
    (names.state / "nodes").write_text(str(count))


def remembered_nodes(names: Names) -> int:
    """How many nodes the cluster was brought up with, 0 if it is not up."""
    note = names.state / "nodes"
    return int(note.read_text()) if note.exists() else 0


class Removal:
    """Takes a cluster down step by step. A step that fails stops none of the others; at the end all failures are told.

    The cluster's folder goes last, and only when nothing failed: it is by this folder that `down` finds the cluster.
    """

    def __init__(self, names: Names) -> None:
        self._names = names
        self._failures: list[str] = []

    def attempt(self, what: str, step: Callable[[], object]) -> None:
        try:
            step()
        except Exception as error:
            self._failures.append(f"{what}: {error}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind:
            return
        self.attempt("ending its programs", Programs(self._names.state).stop_all)
        if self._failures:
            raise ClusterError("\n  ".join([f"{self._names.name} is not wholly gone:", *dict.fromkeys(self._failures)]))
        shutil.rmtree(self._names.state, ignore_errors=True)
        parent = self._names.state.parent
        if parent.is_dir() and not any(parent.iterdir()):
            parent.rmdir()
