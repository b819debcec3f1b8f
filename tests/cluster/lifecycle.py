"""What the two drivers that run Kubernetes' own programs here (native and api) share: folder, lock, clean-up."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from cluster import cache
from cluster.names import Names, digest
from cluster.processes import Programs, boot_id
from cluster.progress import Progress


@contextmanager
def exclusively(names: Names, progress: Progress) -> Iterator[None]:
    """One `up` or `down` of a cluster at a time."""
    with cache.lock(f"cluster-{names.name}-{digest(names.marker)[:8]}", progress):
        yield


def enter(names: Names, driver: str) -> bool:
    """Makes the cluster's folder ready for a start. False: what it holds is from before a reboot, and was removed."""
    note = names.state / "boot"
    fresh = not note.exists() or note.read_text() == boot_id()
    if not fresh:
        shutil.rmtree(names.state)
    names.logs.mkdir(parents=True, exist_ok=True)
    (names.state / "driver").write_text(driver)
    note.write_text(boot_id())
    return fresh


def left_by(names: Names) -> str:
    """The driver that this cluster's folder belongs to, "" without one."""
    note = names.state / "driver"
    return note.read_text() if note.exists() else ""


def remember_nodes(names: Names, count: int) -> None:
    (names.state / "nodes").write_text(str(count))


def remembered_nodes(names: Names) -> int:
    """How many nodes the cluster was brought up with, 0 if it is not up."""
    note = names.state / "nodes"
    return int(note.read_text()) if note.exists() else 0


def remove(names: Names) -> None:
    """The folder, and the folder of all clusters if this was the last."""
    Programs(names.state).stop_all()
    shutil.rmtree(names.state, ignore_errors=True)
    parent = names.state.parent
    if parent.is_dir() and not any(parent.iterdir()):
        parent.rmdir()
