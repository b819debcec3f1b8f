"""One object into one file, resumed where an earlier try stopped.

What was begun is remembered beside the file with the version of the object, so that half of one content is never
continued with the other half of another. Where the server names no version, every try starts anew.
"""

import json
from pathlib import Path
from typing import Any

from moorage_store.progress import Progress
from moorage_store.remote import Remote, Version


class Journal:
    """Which version of which object the files of an unfinished download belong to."""

    def __init__(self, path: Path, uri: str) -> None:
        self.path = path
        self._state: dict[str, Any] = {"uri": uri, "objects": {}}
        try:
            state = json.loads(path.read_text())
        except (OSError, ValueError):
            return
        if state.get("uri") == uri:
            self._state = state

    def version(self, name: str) -> Version | None:
        known = self._state["objects"].get(name)
        return Version(**known) if known else None

    def begin(self, name: str, version: Version) -> None:
        self._state["objects"][name] = version.as_json()
        scratch = self.path.with_name(self.path.name + ".tmp")
        scratch.write_text(json.dumps(self._state))
        scratch.rename(self.path)


def usable_bytes(file: Path, known: Version | None, current: Version) -> int:
    """How much of a file is the beginning of the object as it is now."""
    if known != current or current.unknown or not file.is_file():
        return 0
    size = file.stat().st_size
    return size if size <= current.size else 0


def download(remote: Remote, name: str | None, file: Path, journal: Journal, progress: Progress) -> None:
    """Completes `file`. Where `progress` has begun, it has counted the bytes that are there already."""
    # A plain GET tells what is there now; HEAD is what presigned URLs and small servers refuse.
    result, current = remote.open(name)
    have = usable_bytes(file, journal.version(name or ""), current)
    if progress.total is None:
        progress.begin(current.size, have)
    if have == current.size and file.is_file():
        return
    if have:
        ranged, version = _continue(remote, name, have)
        if ranged is None or version != current:
            progress.restart(have)
            have = 0
        else:
            result = ranged
    file.parent.mkdir(parents=True, exist_ok=True)
    with remote.errors(), file.open("r+b" if have else "wb") as out:
        # Only now, when bytes of another version are cut off: killed in between, they would count as this one's.
        journal.begin(name or "", current)
        out.seek(have)
        for chunk in result.stream(min_chunk_size=2**20):
            out.write(chunk)
            progress.add(len(chunk))


def _continue(remote: Remote, name: str | None, offset: int) -> tuple[Any, Version | None]:
    from obstore.exceptions import BaseError

    try:
        return remote.open(name, offset)
    except Exception as error:
        if isinstance(error.__cause__, BaseError):
            return None, None  # no ranges here, or the object just changed: from the start then
        raise
