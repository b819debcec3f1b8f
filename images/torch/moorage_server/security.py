"""Who may ask, and over which wire: tokens and a certificate out of mounted Secrets, read again when they change.

Kubernetes replaces a mounted Secret's files all at once; a new certificate is for new connections, a new token counts
from its next reading. What is new and cannot be read is told in the log, and what was known goes on to count.
"""

import asyncio
import hashlib
import hmac
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import structlog

from .failures import StartupError

LOOK_SECONDS = 5.0
_SCHEME = b"bearer "


class Tokens:
    """Bearer tokens (RFC 6750), one a line in a file."""

    def __init__(self, file: Path) -> None:
        self.files = (file,)
        self._known: list[bytes] = []
        self.read()

    def read(self) -> None:
        """Raises OSError, and ValueError where there is none: nobody could ask."""
        tokens = [line.strip() for line in self.files[0].read_bytes().splitlines()]
        # Digests, so that the time of a comparison tells nothing, not even a length.
        known = [hashlib.sha256(token).digest() for token in tokens if token]
        if not known:
            raise ValueError("it has no token: write one a line")
        self._known = known

    def allow(self, authorization: bytes) -> bool:
        """Of the header's value."""
        if authorization[: len(_SCHEME)].lower() != _SCHEME:
            return False
        given = hashlib.sha256(authorization[len(_SCHEME) :].strip()).digest()
        return sum(hmac.compare_digest(given, token) for token in self._known) > 0


class Certificate:
    """`tls.crt` and `tls.key` of a folder, as a Secret of type kubernetes.io/tls has them."""

    def __init__(self, folder: Path) -> None:
        self.files = (folder / "tls.crt", folder / "tls.key")
        self.read()
        self.context = self._now
        self.context.sni_callback = self._greet

    def read(self) -> None:
        """Raises OSError; an SSLError, which is one, where the two do not fit."""
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        # In this order: who speaks both, as curl, is to speak HTTP/1.1; gRPC's clients speak HTTP/2 only.
        made.set_alpn_protocols(["http/1.1", "h2"])
        # Into a context of its own: one that takes a certificate and then finds that the key is another's has none.
        made.load_cert_chain(*self.files)
        self._now = made

    def _greet(self, connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _context: ssl.SSLContext) -> None:
        """Called for each new connection, also where its client names nobody."""
        connection.context = self._now


Secret = Tokens | Certificate


def opened(kind: Callable[[Path], Any], path: Path | None) -> Any:
    """It, or None where no path is given; a StartupError says why it cannot be used."""
    if path is None:
        return None
    try:
        return kind(path)
    except (OSError, ValueError) as error:
        raise StartupError("InvalidConfiguration", f"cannot use {path}: {error}") from error


async def follow(secrets: Sequence[Secret]) -> None:
    """Reads each again when its files have changed."""
    seen = {secret: _marks(secret) for secret in secrets}
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        for secret in secrets:
            now = _marks(secret)
            if now == seen[secret]:
                continue
            log: Any = structlog.get_logger().bind(file=str(secret.files[0]))
            try:
                secret.read()
            except (OSError, ValueError) as error:
                log.error("cannot read the new one, the former still counts", error=str(error))
            else:
                log.info("read anew")
            seen[secret] = now


def _marks(secret: Secret) -> list[tuple[int, int] | None]:
    def mark(file: Path) -> tuple[int, int] | None:
        try:
            found = file.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

    return [mark(file) for file in secret.files]
