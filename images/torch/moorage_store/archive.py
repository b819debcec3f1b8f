"""Archives become folders, and never anything outside of their folder."""

import tarfile
import zipfile
import zlib
from pathlib import Path

from moorage_store.errors import Corrupt, Unsafe


def unpack(archive: Path, folder: Path, name: str) -> None:
    """Unpacks into a new folder; `name` is what the user calls the archive, and says what it is."""
    try:
        if name.lower().endswith(".zip"):
            _unzip(archive, folder, name)
        else:
            with tarfile.open(archive) as tar:
                # The "data" filter refuses absolute names, "..", links that leave the folder, and devices.
                tar.extractall(folder, filter="data")
    except tarfile.FilterError as error:
        raise Unsafe(f"{name} is not unpacked: {error}") from error
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise Corrupt(f"{name} cannot be unpacked: {error}") from error


def _unzip(archive: Path, folder: Path, name: str) -> None:
    with zipfile.ZipFile(archive) as file:
        for entry in file.namelist():
            # zipfile would write such an entry elsewhere inside; an archive that tries is not to be trusted at all.
            if entry.startswith(("/", "\\")) or ".." in Path(entry.replace("\\", "/")).parts:
                raise Unsafe(f"{name} is not unpacked: {entry!r} would be outside of the folder")
        folder.mkdir(parents=True, exist_ok=True)
        file.extractall(folder)
