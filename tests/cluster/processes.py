"""Starts the cluster's programs so that they outlive us, and ends exactly those, whoever started them.

Each program's log and process id lie in the cluster's folder. A process id alone proves nothing after a crash or a
reboot (the number may be somebody else's by now), so the start time is kept with it. And each program carries the
cluster's folder in its environment: what a killed run started without leaving a note is found by that.
"""

import contextlib
import json
import os
import signal
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.interface import ClusterError

MARK = "MOORAGE_CLUSTER"
RUN = "MOORAGE_RUN"
STOP_SECONDS = 15.0
LAST_LINES = 12


@dataclass(frozen=True)
class Process:
    pid: int
    started: int  # clock ticks after boot, field 22 of /proc/PID/stat
    boot: str

    @property
    def alive(self) -> bool:
        """It runs. One that has ended and waits to be reaped does not."""
        now = look(self.pid)
        return now == self


def look(pid: int) -> Process | None:
    """The running process of that id, or None."""
    try:
        # The program's name stands in parentheses and may hold anything, so count from the last one.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, started = fields[0], int(fields[19])
    return None if state in "ZX" else Process(pid, started, boot_id())


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def children(pid: int) -> list[int]:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def arguments(pid: int) -> list[str]:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    return []


def last_words(log: Path, lines: int = LAST_LINES) -> str:
    """The end of a log, for people: indented, and no line without an end."""
    with contextlib.suppress(FileNotFoundError):
        said = log.read_text(errors="replace").strip().splitlines()[-lines:]
        return "\n".join(f"  {line[:300]}" for line in said) or "  (it wrote nothing)"
    return "  (it has no log)"


def end(process: Process, sig: signal.Signals = signal.SIGKILL, timeout: float = STOP_SECONDS) -> None:
    """Ends it and waits until it has ended; kills it when it does not end by itself."""
    if process.alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, sig)
    deadline = time.monotonic() + timeout
    while process.alive:
        if time.monotonic() > deadline:
            if sig == signal.SIGKILL:
                raise TimeoutError(f"process {process.pid} does not end, not even by SIGKILL")
            return end(process, signal.SIGKILL, timeout)
        time.sleep(0.02)
    with contextlib.suppress(ChildProcessError):  # ours to reap only if we started it
        os.waitpid(process.pid, os.WNOHANG)
    return None


def end_all(processes: Collection[Process]) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    for process in processes:
        end(process)


def carrying(variable: str) -> Iterator[tuple[Process, str]]:
    """The running processes that were started with that variable in their environment, ourselves aside; its value."""
    prefix = f"{variable}=".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
        except OSError:  # ended meanwhile, or another user's
            continue
        for entry in environment:
            process = look(int(folder.name)) if entry.startswith(prefix) else None
            if process and process.pid != os.getpid():
                yield process, entry.removeprefix(prefix).decode(errors="replace")


class Programs:
    """The programs of one cluster, by name."""

    def __init__(self, state: Path) -> None:
        self._state = state

    def _note(self, name: str) -> Path:
        return self._state / "pid" / f"{name}.json"

    def log(self, name: str) -> Path:
        return self._state / "log" / f"{name}.log"

    def start(self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> Process:
        """Starts it unless it runs. The log starts anew: it is about the program that runs."""
        running = self.get(name)
        if running:
            return running
        self._note(name).parent.mkdir(parents=True, exist_ok=True)
        self.log(name).parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, **(env or {}), MARK: str(self._state)}
        environment.pop(RUN, None)  # it is not a helper of the run that starts it: it outlives that
        output = os.open(self.log(name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
        try:
            pid = os.posix_spawnp(
                argv[0],
                list(argv),
                environment,
                setsid=True,
                setsigmask=[],
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, output, 1),
                    (os.POSIX_SPAWN_DUP2, output, 2),
                ],
            )
        finally:
            os.close(output)
        process = look(pid) or Process(pid, 0, boot_id())  # a program that ended at once is simply not alive
        self._note(name).write_text(json.dumps(asdict(process)))
        return process

    def get(self, name: str) -> Process | None:
        """The program's process, if it runs."""
        try:
            process = Process(**json.loads(self._note(name).read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        return process if process.alive else None

    def check(self, names: Iterable[str]) -> None:
        """Raises for the first that was started, was not stopped, and runs no more."""
        for name in names:
            if self._note(name).exists() and self.get(name) is None:
                raise ClusterError(f"{name} has ended. Its last words:\n{last_words(self.log(name))}")

    def names(self) -> list[str]:
        return sorted(note.stem for note in (self._state / "pid").glob("*.json"))

    def stop(self, name: str, sig: signal.Signals = signal.SIGKILL) -> None:
        process = self.get(name)
        if process:
            end(process, sig)
        self._note(name).unlink(missing_ok=True)

    def strays(self) -> Iterator[Process]:
        """Whatever runs with this cluster's mark, noted or not."""
        return (process for process, value in carrying(MARK) if value == str(self._state))

    def stop_all(self) -> None:
        """Kills every program at once, then waits for each: their data are thrown away with them."""
        running = {process for name in self.names() if (process := self.get(name))} | set(self.strays())
        end_all(running)
        for name in self.names():
            self._note(name).unlink(missing_ok=True)
