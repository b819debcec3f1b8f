"""Encrypted models: what comes back is what went in, or nothing does."""

import base64
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from moorage_store.encryption import KEY_BYTES, MAGIC, PIECE_BYTES, NotDecrypted, decrypt, encrypt, read_key
from moorage_store.errors import Misconfigured, NotFound

from .test_commands import run

KEY = bytes(range(200, 200 + KEY_BYTES))
HEAD, SEALED_PIECE = len(MAGIC) + 16, PIECE_BYTES + 16


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES])
def test_a_file_comes_back(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "plain").write_bytes(content)
    encrypt(tmp_path / "plain", tmp_path / "sealed", KEY)
    sealed = (tmp_path / "sealed").read_bytes()
    assert sealed.startswith(MAGIC)
    assert size < 16 or content not in sealed
    decrypt(tmp_path / "sealed", tmp_path / "deep" / "again", KEY)
    assert (tmp_path / "deep" / "again").read_bytes() == content


def test_a_folder_comes_back_also_over_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "model/more").mkdir(parents=True)
    (tmp_path / "model/empty").mkdir()
    (tmp_path / "model/model.pt2").write_bytes(b"weights")
    (tmp_path / "model/more/moorage.yaml").write_bytes(b"task: x")
    encrypt(tmp_path / "model", tmp_path / "sealed", KEY)
    for _ in range(2):
        decrypt(tmp_path / "sealed", tmp_path / "again", KEY, allow_existing=True)
        assert (tmp_path / "again/empty").is_dir()
        files = {str(f.relative_to(tmp_path / "again")): f.read_bytes() for f in (tmp_path / "again").rglob("*.*")}
        assert files == {"model.pt2": b"weights", "more/moorage.yaml": b"task: x"}


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    (tmp_path / "models/a").mkdir(parents=True)
    (tmp_path / "models/a/model.pt2").write_bytes(b"weights")
    (tmp_path / "there").write_bytes(b"mine")
    with pytest.raises(Misconfigured, match="exists already: remove it, or allow it with --allow-existing"):
        encrypt(tmp_path / "models/a", tmp_path / "there", KEY)
    for dest in (tmp_path / "models", tmp_path / "models/a", tmp_path / "models/a/sealed"):
        with pytest.raises(Misconfigured, match="lie within one another"):
            encrypt(tmp_path / "models/a", dest, KEY, allow_existing=True)
    (tmp_path / "models/a/link").symlink_to("model.pt2")
    with pytest.raises(Misconfigured, match="is a link, which may lead anywhere"):
        encrypt(tmp_path / "models/a", tmp_path / "sealed", KEY)
    assert (tmp_path / "there").read_bytes() == b"mine"
    assert (tmp_path / "models/a/model.pt2").read_bytes() == b"weights"


def test_no_file_stands_for_another(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for name in ("a.pt2", "b.pt2"):
        (tmp_path / "model" / name).write_bytes(name.encode())
    encrypt(tmp_path / "model", tmp_path / "sealed", KEY)
    (tmp_path / "sealed/a.pt2").replace(tmp_path / "sealed/b.pt2")
    with pytest.raises(NotDecrypted, match="it is of another key or name, or was changed"):
        decrypt(tmp_path / "sealed", tmp_path / "again", KEY)


def test_the_same_file_is_another_each_time(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"content")
    for name in ("one", "two"):
        encrypt(tmp_path / "plain", tmp_path / name, KEY)
    assert (tmp_path / "one").read_bytes()[HEAD:] != (tmp_path / "two").read_bytes()[HEAD:]


def swapped(sealed: bytes) -> bytes:
    first, second = sealed[HEAD : HEAD + SEALED_PIECE], sealed[HEAD + SEALED_PIECE : HEAD + 2 * SEALED_PIECE]
    return sealed[:HEAD] + second + first + sealed[HEAD + 2 * SEALED_PIECE :]


def flipped(place: int) -> Callable[[bytes], bytes]:
    def flip(sealed: bytes) -> bytes:
        at = place % len(sealed)
        return sealed[:at] + bytes((sealed[at] ^ 1,)) + sealed[at + 1 :]

    return flip


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "a bit of the first piece": flipped(HEAD + 5),
    "a bit of the last": flipped(-1),
    "a bit of the salt": flipped(len(MAGIC)),
    "cut within a piece": lambda sealed: sealed[:-1],
    "cut between pieces": lambda sealed: sealed[: HEAD + 2 * SEALED_PIECE],
    "no piece at all": lambda sealed: sealed[:HEAD],
    "more behind it": lambda sealed: sealed + b"x",
    "pieces in another order": swapped,
    "a piece left out": lambda sealed: sealed[:HEAD] + sealed[HEAD + SEALED_PIECE :],
    "not encrypted": lambda sealed: b"PK\x03\x04" + bytes(100),
    "nothing": lambda sealed: b"",
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_changed_is_refused(tmp_path: Path, change: str) -> None:
    (tmp_path / "plain").write_bytes(os.urandom(2 * PIECE_BYTES + 7))
    encrypt(tmp_path / "plain", tmp_path / "sealed", KEY)
    (tmp_path / "sealed").write_bytes(CHANGES[change]((tmp_path / "sealed").read_bytes()))
    with pytest.raises(NotDecrypted):
        decrypt(tmp_path / "sealed", tmp_path / "again", KEY)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain", "sealed"], "nothing is left in the clear"


def test_one_file_of_a_folder_that_is_not_encrypted_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/model.pt2").write_bytes(b"weights")
    encrypt(tmp_path / "model", tmp_path / "sealed", KEY)
    (tmp_path / "sealed/moorage.yaml").write_bytes(b"put there by somebody")
    with pytest.raises(NotDecrypted, match=r"moorage\.yaml is not encrypted, and with a key nothing else is taken"):
        decrypt(tmp_path / "sealed", tmp_path / "again", KEY)
    assert not (tmp_path / "again").exists()


def test_another_key(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"content")
    encrypt(tmp_path / "plain", tmp_path / "sealed", KEY)
    with pytest.raises(NotDecrypted, match="it is of another key or name, or was changed"):
        decrypt(tmp_path / "sealed", tmp_path / "again", bytes(KEY_BYTES))


def test_a_key_is_32_bytes_as_they_are_or_in_base64(tmp_path: Path) -> None:
    for text in (KEY, base64.b64encode(KEY), base64.b64encode(KEY) + b"\n"):
        (tmp_path / "key").write_bytes(text)
        assert read_key(tmp_path / "key") == KEY
    # 32 characters of text are 16 bytes in hexadecimal, or 24 in base64.
    for text in (b"", b"short", base64.b64encode(KEY[:16]), b"\xff" * 33, b"0123456789abcdef" * 2):
        (tmp_path / "key").write_bytes(text)
        with pytest.raises(Misconfigured, match=r"is not of 32 bytes.*head -c 32 /dev/urandom"):
            read_key(tmp_path / "key")
    with pytest.raises(Misconfigured, match="cannot read the key"):
        read_key(tmp_path / "none")


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        decrypt(tmp_path / "none", tmp_path / "again", KEY)


def test_the_commands(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(base64.b64encode(KEY))
    (tmp_path / "plain").write_bytes(b"content")
    way = ("--key", tmp_path / "key")
    assert run(tmp_path, "encrypt", tmp_path / "plain", tmp_path / "sealed", *way)[0] == 0
    assert run(tmp_path, "decrypt", tmp_path / "sealed", tmp_path / "again", *way)[0] == 0
    assert (tmp_path / "again").read_bytes() == b"content"
    code, _, log = run(tmp_path, "decrypt", tmp_path / "plain", tmp_path / "other", *way)
    assert (code, log["reason"]) == (65, "DecryptionFailed")
