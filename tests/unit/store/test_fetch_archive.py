"""Archives are unpacked into a folder, and only there."""

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

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


EVIL = {
    "a.tgz": tar({"../evil": b"x"}),
    "b.tgz": tar({"ok": b"x"}, link=("out", "../..")),
    "c.tgz": tar({"ok": b"x"}, link=("passwd", "/etc/passwd")),
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
