"""Models that lie encrypted where they are kept: each file sealed with AES-256-GCM, piece by piece.

The STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár: Online Authenticated-Encryption and its Nonce-Reuse
Misuse-Resistance, CRYPTO 2015), as age and Tink have it: the nonce of a piece is its number and whether it is the last,
so that pieces can be neither moved nor left out. Each file has a key of its own, by HKDF-SHA256 out of the given one
and a random salt. Needs a piece of memory, whatever the size of a file.

    file   = MAGIC, salt (16 bytes), pieces
    piece  = AES-256-GCM(key of the file, nonce, up to 1 MiB of the content, with MAGIC and salt as associated data)
    nonce  = zeros (7 bytes), number of the piece (4 bytes, big-endian), 1 if it is the last else 0 (1 byte)
"""

import base64
import binascii
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from moorage_store.digest import files_of
from moorage_store.errors import Misconfigured, NotFound, StoreError
from moorage_store.fetch import remove
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
    """32 bytes, in base64 or as they are."""
    try:
        text = file.read_bytes()
    except OSError as error:
        raise Misconfigured(f"cannot read the key {file}: {error.strerror}") from error
    if len(text) == KEY_BYTES:
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


def encrypt(source: Path, dest: Path, key: bytes) -> None:
    """A file, or each of a folder."""

    def seal(content: BinaryIO, sealed: BinaryIO) -> None:
        salt = os.urandom(_SALT_BYTES)
        sealed.write(MAGIC + salt)
        cipher = _cipher(key, salt)
        for number, piece, last in _pieces(content, PIECE_BYTES):
            sealed.write(cipher.encrypt(_nonce(number, last), piece, MAGIC + salt))

    _each(source, dest, seal)


def decrypt(source: Path, dest: Path, key: bytes) -> None:
    """A file, or each of a folder. What is not encrypted is refused: somebody else may have put it there."""

    def unseal(sealed: BinaryIO, content: BinaryIO) -> None:
        head = sealed.read(len(MAGIC) + _SALT_BYTES)
        if len(head) < len(MAGIC) + _SALT_BYTES or not head.startswith(MAGIC):
            raise NotDecrypted(
                f"{sealed.name} is not encrypted, and with a key nothing else is taken: encrypt it with "
                "python -m moorage_store encrypt, or name no key"
            )
        cipher = _cipher(key, head[len(MAGIC) :])
        for number, piece, last in _pieces(sealed, PIECE_BYTES + _TAG_BYTES):
            try:
                content.write(cipher.decrypt(_nonce(number, last), piece, head))
            except InvalidTag:
                why = "it was changed or cut short" if number else "it is of another key, or was changed"
                raise NotDecrypted(f"{sealed.name} cannot be decrypted: {why}") from None

    _each(source, dest, unseal)


def _each(source: Path, dest: Path, change: Callable[[BinaryIO, BinaryIO], None]) -> None:
    """DEST becomes as SOURCE is: a file or a folder; whole, or it is not there."""
    if not source.exists():
        raise NotFound(f"{source} does not exist")
    part = dest.with_name(f".{dest.name}.part")
    remove(part)
    for file in files_of(source) if source.is_dir() else [source]:
        to = part / file.relative_to(source) if source.is_dir() else part
        to.parent.mkdir(parents=True, exist_ok=True)
        with file.open("rb") as before, to.open("wb") as after:
            change(before, after)
    # A pod whose node restarted runs its init containers again.
    remove(dest)
    part.rename(dest)


def _pieces(file: BinaryIO, size: int) -> Iterator[tuple[int, bytes, bool]]:
    """Number, content, and whether it is the last. There is one at least, if of nothing."""
    piece, number = file.read(size), 0
    while following := file.read(size):
        yield number, piece, False
        piece, number = following, number + 1
    yield number, piece, True


def _cipher(key: bytes, salt: bytes) -> AESGCM:
    return AESGCM(HKDF(SHA256(), KEY_BYTES, salt, b"moorage model").derive(key))


def _nonce(number: int, last: bool) -> bytes:
    return bytes(7) + number.to_bytes(4, "big") + bytes((last,))
