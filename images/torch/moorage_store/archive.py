"""Archives become folders, and never anything outside of their folder.

tarfile's own filters would do for tar files; Debian's Python 3.11.2, which the images have, is older than they are.
"""

import gzip
import lzma
import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from moorage_store.errors import Corrupt, Unsafe

_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError)
# Two entries want one name as different things.
_CLASH = (FileExistsError, NotADirectoryError, IsADirectoryError)


def unpack(archive: Path, folder: Path, name: str) -> None:
    """Unpacks into a new folder; `name` is what the user calls the archive, and says what it is."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if name.lower().endswith(".zip"):
            _unzip(archive, folder, name)
        else:
            with tarfile.open(archive) as tar:
                _untar(tar, folder, name)
    except (*_DAMAGE, *_CLASH) as error:
        raise Corrupt(f"{name} cannot be unpacked: {error}") from error
    except RuntimeError as error:  # zipfile: a password, or a compression it does not know
        raise Corrupt(f"{name} cannot be unpacked: {error}; pack it anew without password, by deflate") from error


def _untar(tar: tarfile.TarFile, folder: Path, name: str) -> None:
    links = []
    for member in tar:
        target = _inside(folder, member.name, name)
        if member.isdir():
            target.mkdir(parents=True, exist_ok=True)
        elif member.isfile():
            target.parent.mkdir(parents=True, exist_ok=True)
            content = tar.extractfile(member)
            assert content is not None
            with content, target.open("wb") as out:
                shutil.copyfileobj(content, out, 2**20)
        elif member.islnk() or member.issym():
            links.append((member, target))
        else:
            raise Unsafe(f"{name} is not unpacked: {member.name!r} is a device, not a file")
    _link(links, folder, name)


def _link(links: list[tuple[tarfile.TarInfo, Path]], folder: Path, name: str) -> None:
    """Links come after all files, so that no file is written through one."""
    root = folder.resolve()
    for member, target in links:
        refused = Unsafe(f"{name} is not unpacked: the link {member.name!r} leads outside of the folder")
        if not target.parent.resolve().is_relative_to(root):
            raise refused
        target.parent.mkdir(parents=True, exist_ok=True)
        if member.issym():
            if not (target.parent / member.linkname).resolve().is_relative_to(root):
                raise refused
            target.symlink_to(member.linkname)
        else:
            source = _inside(folder, member.linkname, name)
            if not source.resolve().is_relative_to(root):
                raise refused
            if not source.is_file():
                raise Corrupt(f"{name} cannot be unpacked: {member.name!r} is a link to no file of it")
            target.hardlink_to(source.resolve())
    # Again when all are there: a later link can change where an earlier one leads.
    for member, target in links:
        if not _resolves_inside(target, root):
            raise Unsafe(f"{name} is not unpacked: the link {member.name!r} leads outside of the folder")


def _resolves_inside(path: Path, root: Path) -> bool:
    try:
        return path.resolve().is_relative_to(root)
    except RuntimeError:  # links in a circle
        return False


def _inside(folder: Path, entry: str, name: str) -> Path:
    if entry.startswith(("/", "\\")) or ".." in PurePosixPath(entry.replace("\\", "/")).parts:
        raise Unsafe(f"{name} is not unpacked: {entry!r} would be outside of the folder")
    return folder / entry


def _unzip(archive: Path, folder: Path, name: str) -> None:
    with zipfile.ZipFile(archive) as file:
        for entry in file.namelist():
            # zipfile would write such an entry elsewhere inside; an archive that tries is not to be trusted at all.
            _inside(folder, entry, name)
        file.extractall(folder)
