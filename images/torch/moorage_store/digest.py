"""The sha256 that names a model's content, as `docs/contracts.md` defines it.

A file's is that of its bytes; a folder's is that of the sorted listing `sha256sum` would print, so anyone can check it
with a shell. What is not content (owner, mode, times, empty folders) does not count.
"""

import hashlib
import os
from pathlib import Path


def sha256_of(path: Path) -> str:
    """The hexadecimal digest of a file, or of a folder's whole content."""
    if not path.is_dir():
        return _file_digest(path)
    listing = hashlib.sha256()
    # Sorted by bytes, as LC_ALL=C sort does. Like `find -type f`, links are not content.
    for name, file in sorted((_name(file, path), file) for file in files_of(path)):
        listing.update(_file_digest(file).encode() + b"  " + name + b"\n")
    return listing.hexdigest()


def files_of(folder: Path) -> list[Path]:
    """The regular files below a folder, links left out."""
    return [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]


def size_of(path: Path) -> int:
    """Bytes of content in a file or a folder."""
    return path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in files_of(path))


def _name(file: Path, folder: Path) -> bytes:
    return os.fsencode(file.relative_to(folder))


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
