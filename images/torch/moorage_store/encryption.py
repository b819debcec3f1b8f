"""Models that lie encrypted where they are kept: each file sealed with AES-256-GCM, piece by piece.

The STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár: Online Authenticated-Encryption and its Nonce-Reuse
Misuse-Resistance, CRYPTO 2015), as age and Tink have it: the nonce of a piece is its number and whether it is the last,
so that pieces can be neither moved nor left out. Each file has a key of its own, by HKDF-SHA256 out of the given one,
a random salt and the file's place in its folder, so that none can stand for another. That a file is gone, or is an
older one of the same place, only a digest of all tells. Needs a piece of memory, whatever the size of a file.

    file   = MAGIC, salt (16 bytes), pieces
    piece  = AES-256-GCM(key of the file, nonce, up to 1 MiB of the content, with MAGIC and salt as associated data)
    nonce  = zeros (7 bytes), number of the piece (4 bytes, big-endian), 1 if it is the last else 0 (1 byte)
"""

import base64
import binascii
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from moorage_store.errors import AccessDenied, Misconfigured, NotFound, StoreError
from moorage_store.fetch import disk_errors, remove
from moorage_store.termination import DATA

MAGIC = b"moorage-sealed-1"
PIECE_BYTES = 1 << 20
KEY_BYTES, _SALT_BYTES, _TAG_BYTES = 32, 16, 16
HOW_TO_MAKE_A_KEY = "make one with: head -c 32 /dev/urandom | base64"


class NotDecrypted(StoreError):
    """Another key, or it was changed on the way."""

    reason = "DecryptionFailed"
    code = DATA


def read_key(file: Path) -> bytes:
    """32 bytes, in base64 or as they are; as they are not where all of them are text, which nobody draws by chance."""
    try:
        text = file.read_bytes()
    except OSError as error:
        raise Misconfigured(f"cannot read the key {file}: {error.strerror}") from error
    if len(text) == KEY_BYTES and not text.isascii():
        return text
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except binascii.Error:
        key = b""
    if len(key) != KEY_BYTES:
        raise Misconfigured(
            f"the key {file} is not of {KEY_BYTES} bytes, as they are or in base64; {HOW_TO_MAKE_A_KEY}"
        )
    return key


def encrypt(source: Path, dest: Path, key: bytes, allow_existing: bool = False) -> None:
    """A file, or each of a folder."""

    def seal(place: bytes, content: BinaryIO, sealed: BinaryIO) -> None:
        salt = os.urandom(_SALT_BYTES)
        sealed.write(MAGIC + salt)
        cipher = _cipher(key, salt, place)
        for number, piece, last in _pieces(content, PIECE_BYTES):
            sealed.write(cipher.encrypt(_nonce(number, last), piece, MAGIC + salt))

    _each(source, dest, seal, allow_existing)


def decrypt(source: Path, dest: Path, key: bytes, allow_existing: bool = False) -> None:
    """A file, or each of a folder. What is not encrypted is refused: somebody else may have put it there."""

    def unseal(place: bytes, sealed: BinaryIO, content: BinaryIO) -> None:
        head = sealed.read(len(MAGIC) + _SALT_BYTES)
        if len(head) < len(MAGIC) + _SALT_BYTES or not head.startswith(MAGIC):
            raise NotDecrypted(
                f"{sealed.name} is not encrypted, and with a key nothing else is taken: encrypt it with "
                "python -m moorage_store encrypt, or name no key"
            )
        cipher = _cipher(key, head[len(MAGIC) :], place)
        for number, piece, last in _pieces(sealed, PIECE_BYTES + _TAG_BYTES):
            try:
                content.write(cipher.decrypt(_nonce(number, last), piece, head))
            except InvalidTag:
                why = "it was changed or cut short" if number else "it is of another key or name, or was changed"
                raise NotDecrypted(f"{sealed.name} cannot be decrypted: {why}") from None

    _each(source, dest, unseal, allow_existing)


def _each(source: Path, dest: Path, change: Callable[[bytes, BinaryIO, BinaryIO], None], allow_existing: bool) -> None:
    """DEST becomes as SOURCE is, a file or a folder: whole, or nothing of it is there."""
    if not source.exists():
        raise NotFound(f"{source} does not exist")
    if dest.exists() and not allow_existing:
        raise Misconfigured(f"{dest} exists already: remove it, or allow it with --allow-existing")
    one, other = source.resolve(), dest.resolve()
    if one.is_relative_to(other) or other.is_relative_to(one):
        raise Misconfigured(f"{dest} and {source} lie within one another: choose another DEST")
    if links := [path for path in (source, *source.rglob("*")) if path.is_symlink()]:
        raise Misconfigured(f"{links[0]} is a link, which may lead anywhere: put the file itself in its place")
    part = dest.with_name(f".{dest.name}.part")
    with disk_errors(dest):
        # First, so that there never are two of them: where this runs it is memory.
        remove(dest)
        remove(part)
        part.parent.mkdir(parents=True, exist_ok=True)
        try:
            if source.is_dir():
                part.mkdir()
                for path in sorted(source.rglob("*")):
                    to = part / path.relative_to(source)
                    if path.is_dir():
                        to.mkdir()
                    else:
                        _change(path, to, partial(change, os.fsencode(path.relative_to(source))))
            else:
                _change(source, part, partial(change, b""))
        except BaseException:
            remove(part)  # it may be in the clear
            raise
        part.rename(dest)


def _change(source: Path, dest: Path, change: Callable[[BinaryIO, BinaryIO], None]) -> None:
    try:
        before = source.open("rb")
    except PermissionError as error:
        raise AccessDenied(f"cannot read {source}: {error.strerror}") from error
    with before, dest.open("wb") as after:
        change(before, after)


def _pieces(file: BinaryIO, size: int) -> Iterator[tuple[int, bytes, bool]]:
    """Number, content, and whether it is the last. There is one at least, if of nothing."""
    piece, number = file.read(size), 0
    while following := file.read(size):
        yield number, piece, False
        piece, number = following, number + 1
    yield number, piece, True


def _cipher(key: bytes, salt: bytes, place: bytes) -> AESGCM:
    return AESGCM(HKDF(SHA256(), KEY_BYTES, salt, b"moorage model\0" + place).derive(key))


def _nonce(number: int, last: bool) -> bytes:
    return bytes(7) + number.to_bytes(4, "big") + bytes((last,))
