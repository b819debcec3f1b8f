"""Runs a program that takes minutes: its lines are shown as they come, and the last ones are told when it fails."""

import subprocess
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from cluster.interface import ClusterError
from cluster.progress import Progress

LAST_LINES = 30


def stream(command: Sequence[str], title: str, progress: Progress, cwd: Path | None = None) -> None:
    last: deque[str] = deque(maxlen=LAST_LINES)
    both = subprocess.STDOUT
    with subprocess.Popen(
        command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=both, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        for line in map(str.strip, process.stdout):
            if line:
                last.append(line)
                progress.detail(line)
    if process.returncode:
        raise ClusterError(f"{title} failed ({process.returncode}). Its last lines:\n" + "\n".join(last))
