"""A cgroup for each node, in every hierarchy, so that what pods may use is limited and counted by the kernel.

Version 1 (one hierarchy a controller) and version 2 (one for all) both; a kubelet takes either.
"""

import time
from collections.abc import Iterator
from pathlib import Path

from cluster.interface import ClusterError

CONTROLLERS = ("cpu", "cpuset", "io", "memory", "pids")


def mounted(kind: str) -> list[Path]:
    mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [Path(folder) for folder, mounted_kind in mounts if mounted_kind == kind]


def create(name: str) -> None:
    """In each hierarchy of version 1 or, where there is none, in the one of version 2."""
    for hierarchy in mounted("cgroup") or mounted("cgroup2")[:1]:
        folder = hierarchy / name
        folder.mkdir(exist_ok=True)
        if (hierarchy / "cgroup.subtree_control").exists():
            delegate(hierarchy)
            delegate(folder)
        for setting in ("cpuset.cpus", "cpuset.mems"):  # version 1 starts with none, and then nothing may run there
            if (folder / setting).exists() and not (hierarchy / "cgroup.controllers").exists():
                (folder / setting).write_text((hierarchy / setting).read_text())


def delegate(folder: Path) -> None:
    """Version 2: children of this cgroup get these controllers."""
    available = (folder / "cgroup.controllers").read_text().split()
    try:
        (folder / "cgroup.subtree_control").write_text(" ".join(f"+{c}" for c in CONTROLLERS if c in available))
    except OSError as error:
        raise ClusterError(
            f"the controllers of {folder} cannot be passed on ({error.strerror}): this seems to be a container with "
            "processes in its root cgroup; run the cluster on the host, or with Docker"
        ) from error


def remove_children(name: str, timeout: float = 5) -> None:
    """What pods left behind. A kubelet that finds such cgroups spends 3 s on each before its node is Ready."""
    for folder in existing(name):
        remove_below(folder, timeout)


def remove(name: str, timeout: float = 5) -> None:
    for folder in existing(name):
        remove_below(folder, timeout)
        remove_one(folder, time.monotonic() + timeout)


def existing(name: str) -> Iterator[Path]:
    # On a machine that mounts both versions, a kubelet makes cgroups in the one that it does not use as well.
    hierarchies = [*mounted("cgroup"), *mounted("cgroup2")]
    return (hierarchy / name for hierarchy in hierarchies if (hierarchy / name).is_dir())


def remove_below(folder: Path, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    for child in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):  # deepest first
        remove_one(child, deadline)


def remove_one(folder: Path, deadline: float) -> None:
    """A cgroup is busy for a moment after its last process has ended."""
    while folder.is_dir():
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
