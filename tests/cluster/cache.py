"""What is dear to make and the same for every checkout is kept once per user: binaries, tools, images.

An entry's name holds a digest of all that went into it, so it is right for ever and never changes. It appears in one
step (a rename), and a lock keeps two builds of the same thing from running at once. Each use touches it, and `prune`
removes what nobody has used for a month.
"""

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from cluster.progress import Progress

# The kinds whose entries are folders by themselves; the images share layers and stay.
PRUNED = ("bin", "helm", "kind", "peers", "pypi", "triton")
UNUSED_SECONDS = 30 * 24 * 3600
LOOK_SECONDS = 0.2


def root() -> Path:
    return Path(os.environ.get("MOORAGE_CACHE") or "~/.cache/moorage").expanduser().absolute()


def key(parts: Iterable[tuple[str, bytes]]) -> str:
    """A digest of named contents, whatever the order they come in."""
    total = hashlib.sha256()
    for name, content in sorted(parts):
        total.update(f"{name}\0{len(content)}\0".encode())
        total.update(content)
    return total.hexdigest()[:16]


@contextmanager
def lock(name: str, progress: Progress, unless: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """One at a time over all processes of this user; ends with the process, so that a killed one blocks nobody.

    Who waits goes on without the lock once `unless` holds: what it wanted to make is there."""
    path = root() / "locks" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        if not taken(file):
            with progress.step(f"waiting for another process that makes {name}"):
                while not (unless() or taken(file)):
                    time.sleep(LOOK_SECONDS)
        yield


def taken(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def scratch(name: str) -> Iterator[Path]:
    """An empty folder on the cache's file system, gone afterwards. To be used under the lock of the same name: what a
    killed process left behind is then nobody's."""
    folder = root() / "tmp" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def entry(kind: str, name: str) -> Path:
    return root() / kind / name


def publish(kind: str, name: str, make: Callable[[Path], None], progress: Progress) -> Path:
    """The folder of that name, made by `make` unless it is there."""
    target = entry(kind, name)
    if not target.exists():
        with lock(f"{kind}-{name}", progress):
            if not target.exists():
                with scratch(f"{kind}-{name}") as folder:
                    make(folder)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    folder.rename(target)
    return used(target)


def used(path: Path) -> Path:
    os.utime(path)
    return path


def prune(progress: Progress, unused: float = UNUSED_SECONDS) -> list[Path]:
    """Removes entries that were last used longer ago than that; they are made again when they are wanted."""
    limit = time.time() - unused
    old = [path for kind in PRUNED for path in entry(kind, "").glob("*") if path.stat().st_mtime < limit]
    for path in old:
        # Gone at once for everybody else, whatever its size.
        with progress.step(f"removing {path}, unused for a month"), scratch(f"pruned-{path.name}") as folder:
            path.rename(folder / path.name)
    return old
