"""Process 1 of a node: mounts what is the node's own, then keeps its programs running until it is killed.

It runs in namespaces of its own (mounts, processes, host name, network), so killing it is pulling the plug: the kernel
ends every program and container at once and takes the mounts along. It is called with the path of a JSON file:
{"hostname", "folder": the node's disk, "programs": [{"name", "argv"}]}. Only the standard library, no imports of ours:
it starts in 30 ms.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CONTAINERD_SOCKET = Path("/run/containerd/containerd.sock")
RESTART_SECONDS = 0.5
ENDED = "ended"  # for those outside: below the node's folder, a file for each program with how often it has ended


def mount_own(folder: Path) -> None:
    """/run is empty at each start, as after a reboot; /var/lib and /var/log are the node's disk and stay."""
    for name in ("lib", "log", "etc"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    # Not the host's /run any more, and with it not its sockets either.
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"], check=True)
    for source, target in (("lib", "/var/lib"), ("log", "/var/log"), ("etc", "/run/node")):
        Path(target).mkdir(exist_ok=True)
        subprocess.run(["mount", "--bind", folder / source, target], check=True)
    for path in ("/run/containerd", "/run/lock", "/var/lib/kubelet", "/var/lib/containerd"):
        Path(path).mkdir(parents=True, exist_ok=True)


def containerd_answers() -> bool:
    """The kubelet ends at once when it finds no containerd, and its restart costs seconds."""
    if not CONTAINERD_SOCKET.exists():
        return False
    return subprocess.run(["ctr", "version"], capture_output=True, check=False).returncode == 0


class Programs:
    """Starts each program again when it ends, as a service manager would."""

    def __init__(self, folder: Path) -> None:
        self._logs = folder / "log"
        self._ended = folder / ENDED
        self._running: dict[int, dict[str, Any]] = {}
        self._ended.mkdir(exist_ok=True)

    def start(self, program: dict[str, Any]) -> None:
        with (self._logs / f"{program['name']}.log").open("ab") as log:
            pid = os.posix_spawnp(
                program["argv"][0],
                program["argv"],
                os.environ,
                setpgroup=0,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, log.fileno(), 1),
                    (os.POSIX_SPAWN_DUP2, log.fileno(), 2),
                ],
            )
        self._running[pid] = program

    def _count(self, name: str) -> None:
        file = self._ended / name
        file.write_text(str(1 + int(file.read_text() if file.exists() else 0)))

    def supervise(self) -> None:
        """Reaps orphans too: process 1 inherits those of every container."""
        while True:
            pid, _ = os.wait()
            program = self._running.pop(pid, None)
            if program:
                self._count(program["name"])
                time.sleep(RESTART_SECONDS)
                self.start(program)


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text())
    # Process 1 ignores what it has no handler for; a shell's Ctrl-C is not meant for it anyway.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    socket.sethostname(spec["hostname"])
    folder = Path(spec["folder"])
    mount_own(folder)
    programs = Programs(folder)
    first, *others = spec["programs"]
    programs.start(first)
    deadline = time.monotonic() + 20
    while not containerd_answers() and time.monotonic() < deadline:
        time.sleep(0.05)
    for program in others:
        programs.start(program)
    programs.supervise()


if __name__ == "__main__":
    main()
