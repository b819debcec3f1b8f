"""Puts back the kernel settings that kubelets change for the whole machine.

They are saved before the first node of any cluster on this machine starts, and restored when the last cluster is gone:
what a second cluster would find are the first one's changes, not the machine's own values.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO, TypedDict

CHANGED_BY_KUBELET = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
PROC_SYS = Path("/proc/sys")
NOTE = Path("/run/moorage-sysctls.json")  # /run and the kernel's settings have the same life: until the next boot


class Saved(TypedDict):
    values: dict[str, str]
    users: list[str]  # folders of the clusters whose nodes run


def locked(note: Path) -> TextIO:
    while True:
        file = note.open("a+")
        fcntl.flock(file, fcntl.LOCK_EX)
        if note.exists() and note.stat().st_ino == os.fstat(file.fileno()).st_ino:
            return file
        file.close()  # who held it before has removed it


@contextmanager
def opened(note: Path) -> Iterator[Saved]:
    """The note, held for us alone; removed when nobody uses it any more."""
    with locked(note) as file:
        file.seek(0)
        saved: Saved = json.loads(file.read() or '{"values": {}, "users": []}')
        yield saved
        file.truncate(0)
        if saved["users"]:
            file.write(json.dumps(saved))
        else:
            note.unlink()


def save(state: Path, note: Path = NOTE, proc_sys: Path = PROC_SYS) -> None:
    with opened(note) as saved:
        if not saved["users"]:
            present = [name for name in CHANGED_BY_KUBELET if (proc_sys / name).exists()]
            saved["values"] = {name: (proc_sys / name).read_text().strip() for name in present}
        saved["users"] = sorted({*saved["users"], str(state)})


def restore(state: Path, note: Path = NOTE, proc_sys: Path = PROC_SYS) -> None:
    if not note.exists():
        return
    with opened(note) as saved:
        # A cluster whose folder was removed by hand uses nothing any more.
        saved["users"] = [user for user in saved["users"] if user != str(state) and Path(user).exists()]
        if saved["users"]:
            return
        for name, value in saved["values"].items():
            if (proc_sys / name).read_text().strip() != value:
                (proc_sys / name).write_text(value)
