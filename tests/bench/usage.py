"""What a process has used, from /proc: CPU time, memory now and at its highest, open files."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """It and all that it started, and they, as far as they live."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            children.setdefault(int(stat.read_text().rpartition(")")[2].split()[1]), []).append(int(stat.parent.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def cpu_seconds(pid: int) -> float:
    """Of all its threads, in user and kernel."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def family_cpu_seconds(pid: int) -> float:
    return _sum(cpu_seconds, pid)


def family_memory_mib(pid: int) -> float:
    """What they share counts in each."""
    return _sum(memory_mib, pid)


def machine_busy_seconds() -> float:
    """Of all cores together, whoever used them."""
    user, nice, system, _idle, _iowait, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + softirq) / TICK


def memory_mib(pid: int) -> float:
    return _status(pid, "VmRSS")


def highest_memory_mib(pid: int) -> float:
    """Since its start, or since `forget_highest_memory`."""
    return _status(pid, "VmHWM")


def forget_highest_memory(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def open_files(pid: int) -> int:
    """Connections, mostly."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def _sum(of: Callable[[int], float], pid: int) -> float:
    """Over those that live and have memory: not those that ended meanwhile."""
    total = 0.0
    for one in family(pid):
        with contextlib.suppress(OSError, StopIteration):
            total += of(one)
    return total


def _status(pid: int, field: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024
