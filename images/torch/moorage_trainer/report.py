"""Files by which a program tells the launcher how far it is and how it ended.

They are progress.json, result.json and failure-RANK.json in $MOORAGE_RUN_DIR.
Each appears by rename, so a reader never sees half of one.
"""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PROGRESS, RESULT = "progress.json", "result.json"
# What is longer is no report, and would fill the launcher's memory.
MAX_BYTES = 2**20


def write(name: str, body: Mapping[str, Any]) -> None:
    """Into $MOORAGE_RUN_DIR; without the launcher there is none, and nobody to tell."""
    if folder := os.environ.get("MOORAGE_RUN_DIR"):
        scratch = Path(folder) / f".{name}.{os.getpid()}"
        scratch.write_text(json.dumps(body))
        scratch.rename(Path(folder) / name)


def write_failure(reason: str, message: str, step: int | None = None) -> None:
    """Why this rank ends: better words than the launcher could find in its output."""
    write(f"failure-{os.environ.get('RANK', '0')}.json", {"reason": reason, "message": message, "step": step})


def read(folder: Path, name: str) -> dict[str, Any]:
    """Empty where there is none or the program wrote no JSON object."""
    try:
        with (folder / name).open("rb") as file:
            body = json.loads(file.read(MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


class Throttle:
    """Says whether it is time again, at most every so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last = float("-inf")

    def ready(self) -> bool:
        now = time.monotonic()
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True
