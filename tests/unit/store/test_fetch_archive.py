"""Archives are unpacked into a folder, and only there."""

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moorage_store import errors
from moorage_store.digest import sha256_of
from moorage_store.fetch import fetch

from .conftest import Site

FILES = {"model.pt2": b"weights" * 1000, "sub/moorage.yaml": b"{}"}


def tar(files: dict[str, bytes], mode: str = "w:gz", link: tuple[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, body in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(body)
            archive.addfile(entry, io.BytesIO(body))
        if link:
            entry = tarfile.TarInfo(link[0])
            entry.type, entry.linkname = tarfile.SYMTYPE, link[1]
            archive.addfile(entry)
    return buffer.getvalue()


def chain(*members: tuple[str, bytes, str]) -> bytes:
    """Links in the order in which they are to be made: name, type, target."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, kind, target in members:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, target
            archive.addfile(entry)
    return buffer.getvalue()


def plain_tar(files: dict[str, bytes]) -> bytes:
    return tar(files, "w")


def zip_(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in files.items():
            archive.writestr(name, body)
    return buffer.getvalue()


MAKERS = {"a.tar.gz": tar, "a.tgz": tar, "a.tar": plain_tar, "a.zip": zip_, "a.ZIP": zip_}


@pytest.mark.parametrize("name", MAKERS)
def test_unpacked_and_digested_as_a_folder(site: Site, tmp_path: Path, name: str) -> None:
    reference = tmp_path / "reference"
    for file, body in FILES.items():
        (reference / file).parent.mkdir(parents=True, exist_ok=True)
        (reference / file).write_bytes(body)
    make: Callable[[dict[str, bytes]], bytes] = MAKERS[name]
    site.files[f"/{name}"] = make(FILES)
    fetch(site.url(f"/{name}"), tmp_path / "model", sha256_of(reference))
    assert sha256_of(tmp_path / "model") == sha256_of(reference)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "reference"]


def test_tar_files_need_no_newer_python_than_the_image_has(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian 12 has Python 3.11.2: tarfile without FilterError, extractall without `filter`."""
    extractall = tarfile.TarFile.extractall

    def old(self: tarfile.TarFile, path: Any = ".", members: Any = None, *, numeric_owner: bool = False) -> None:
        extractall(self, path, members, numeric_owner=numeric_owner)

    monkeypatch.delattr(tarfile, "FilterError", raising=False)
    monkeypatch.setattr(tarfile.TarFile, "extractall", old)
    site.files["/a.tgz"] = tar({"model.pt2": b"x"})
    fetch(site.url("/a.tgz"), tmp_path / "model")
    assert (tmp_path / "model" / "model.pt2").read_bytes() == b"x"


def test_links_within_the_folder_are_kept(site: Site, tmp_path: Path) -> None:
    site.files["/a.tgz"] = tar({"sub/model.pt2": b"x"}, link=("sub/same", "../sub/model.pt2"))
    fetch(site.url("/a.tgz"), tmp_path / "model")
    assert (tmp_path / "model" / "sub" / "same").read_bytes() == b"x"


def test_a_zip_with_a_password_is_explained(site: Site, tmp_path: Path) -> None:
    body = bytearray(zip_({"a": b"x"}))
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        body[body.index(signature) + flags] |= 1
    site.files["/a.zip"] = bytes(body)
    with pytest.raises(errors.Corrupt, match="without password"):
        fetch(site.url("/a.zip"), tmp_path / "model")


EVIL = {
    "a.tgz": tar({"../evil": b"x"}),
    "b.tgz": tar({"ok": b"x"}, link=("out", "../..")),
    "c.tgz": tar({"ok": b"x"}, link=("passwd", "/etc/passwd")),
    "later.tgz": chain(("a", tarfile.SYMTYPE, "b/../x"), ("b", tarfile.SYMTYPE, ".")),
    "through.tgz": chain(
        ("a", tarfile.SYMTYPE, "b/../x"), ("b", tarfile.SYMTYPE, "."), ("a/evil", tarfile.SYMTYPE, "y")
    ),
    "hard.tgz": chain(("a", tarfile.LNKTYPE, "/etc/passwd")),
    "circle.tgz": chain(("a", tarfile.SYMTYPE, "b"), ("b", tarfile.SYMTYPE, "a")),
    "pipe.tgz": chain(("a", tarfile.FIFOTYPE, "")),
    "device.tgz": chain(("a", tarfile.CHRTYPE, "")),
    "absolute.tgz": tar({"/evil": b"x"}),
    "d.zip": zip_({"../evil": b"x"}),
    "e.zip": zip_({"/evil": b"x"}),
    "f.zip": zip_({"a\\..\\..\\evil": b"x"}),
}


@pytest.mark.parametrize("name", EVIL)
def test_an_archive_that_reaches_outside_is_refused(site: Site, tmp_path: Path, name: str) -> None:
    site.files[f"/{name}"] = EVIL[name]
    with pytest.raises(errors.Unsafe, match=f"{name} is not unpacked"):
        fetch(site.url(f"/{name}"), tmp_path / "in" / "model")
    assert not (tmp_path / "evil").exists()
    assert not (tmp_path / "in" / "evil").exists()
    assert not (tmp_path / "in" / "model").exists()


@pytest.mark.parametrize("name", ["a.tar.gz", "a.zip", "a.tar"])
@pytest.mark.parametrize("damage", ["cut", "noise", "empty"])
def test_a_damaged_archive_is_called_so(site: Site, tmp_path: Path, name: str, damage: str) -> None:
    good = MAKERS[name]({"big": bytes(range(256)) * 400})
    site.files[f"/{name}"] = {"cut": good[: len(good) // 2], "noise": b"\x81\x92" * 5000, "empty": b""}[damage]
    with pytest.raises(errors.Corrupt, match=name):
        fetch(site.url(f"/{name}"), tmp_path / "model")
    # Mended on the server, the next try has it: nothing of the damaged one is gone on with.
    site.files[f"/{name}"] = good
    fetch(site.url(f"/{name}"), tmp_path / "model")
    assert (tmp_path / "model" / "big").stat().st_size == 256 * 400
