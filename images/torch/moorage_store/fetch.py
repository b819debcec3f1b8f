"""A URI becomes a file or a folder at DEST: downloaded beside it, checked, and renamed into place.

DEST therefore is either absent or complete. A single object or URL becomes a file, an archive or an S3 prefix a folder.
"""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from moorage_store import archive
from moorage_store import uri as uris
from moorage_store.digest import files_of, sha256_of
from moorage_store.download import Journal, download, usable_bytes
from moorage_store.errors import AccessDenied, DigestMismatch, Misconfigured, NoSpace, NotFound, Unsafe
from moorage_store.progress import Progress
from moorage_store.remote import Remote, Version


def fetch(uri_text: str, dest: Path, sha256: str = "", allow_existing: bool = False) -> int:
    """The bytes that were copied: none where DEST is there already."""
    uri = uris.parse(uri_text)
    if uri.is_mounted:
        raise Misconfigured(f"{uri} is mounted into the pod, not fetched: use it where it is mounted")
    if dest.exists():
        if not allow_existing:
            raise Misconfigured(f"{dest} exists already: remove it, or allow it with --allow-existing")
        if not sha256 or sha256_of(dest) == sha256.lower():
            print(f"{dest} is there already", flush=True)
            return 0
        print(f"{dest} has other content than asked for and is fetched anew", flush=True)
        remove(dest)
    part, journal = _beside(dest, ".part"), _beside(dest, ".part.json")
    unpacked = _beside(dest, ".unpacked")
    with disk_errors(dest):
        dest.parent.mkdir(parents=True, exist_ok=True)
        copied = _transfer(Remote(uri), part, Journal(journal, uri.text))
        result = part
        if uri.is_archive and part.is_file():
            remove(unpacked)
            archive.unpack(part, unpacked, uri.name)
            result = unpacked
        try:
            verify(result, sha256, str(uri))
        except DigestMismatch:
            for path in (part, journal, unpacked):
                remove(path)
            raise
        result.rename(dest)
        remove(part)
        remove(journal)
    return copied


def verify(path: Path, sha256: str, what: str = "") -> None:
    """Raises unless the content at `path` has this digest. An empty digest asks for nothing."""
    if not path.exists():
        raise NotFound(f"{what or path} does not exist")
    if sha256 and (actual := sha256_of(path)) != sha256.lower():
        kind = "folder" if path.is_dir() else "file"
        raise DigestMismatch(f"the {kind} {what or path} has sha256 {actual}, but {sha256} was asked for")


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _transfer(remote: Remote, part: Path, journal: Journal) -> int:
    progress = Progress(f"fetching {remote.uri}")
    objects = _objects(remote)
    if part.exists() and part.is_dir() != (objects is not None):
        remove(part)
    if objects is None:
        download(remote, None, part, journal, progress)
    else:
        files = {name: _inside(part, name) for name in sorted(objects)}
        for stale in set(files_of(part)) - set(files.values()):
            stale.unlink()
        have = sum(usable_bytes(file, journal.version(name), objects[name]) for name, file in files.items())
        progress.begin(sum(version.size for version in objects.values()), have)
        for name, file in files.items():
            download(remote, name, file, journal, progress)
    progress.finish()
    return progress.copied


def _objects(remote: Remote) -> dict[str, Version] | None:
    try:
        return remote.objects()
    except AccessDenied:
        if remote.uri.path and remote.readable():
            return None
        raise


def _inside(folder: Path, name: str) -> Path:
    if ".." in Path(name).parts or name.startswith("/"):
        raise Unsafe(f"the object {name!r} would be written outside of its folder")
    return folder / name


def _beside(dest: Path, suffix: str) -> Path:
    return dest.with_name(dest.name + suffix)


@contextmanager
def disk_errors(dest: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(dest.parent).free / 1e6
            raise NoSpace(f"the volume of {dest} is full ({free:.0f} MB free): give it more room") from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise AccessDenied(f"{dest} cannot be written: {error}") from error
        if error.errno == errno.EBUSY:
            raise Misconfigured(f"{dest} is a mount point and cannot be replaced: write {dest}/NAME") from error
        raise
