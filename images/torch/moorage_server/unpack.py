"""Packed bodies and messages, unpacked up to a limit: a few bytes must not become gigabytes."""

import zlib


class Unreadable(Exception):
    """It cannot be unpacked: why, as words that follow what "it" is. `known`: its coding is one that could be."""

    def __init__(self, message: str, *, known: bool = True) -> None:
        super().__init__(message)
        self.known = known


def unpacked(packed: bytes, coding: bytes, most: int) -> bytes | bytearray:
    """At most `most` + 1 bytes, so that it shows where there are more. Raises Unreadable."""
    if coding == b"identity":
        return packed
    if coding not in (b"gzip", b"x-gzip", b"deflate"):
        raise Unreadable("has a coding that is not known; gzip and deflate are", known=False)
    body = bytearray()
    while packed and len(body) <= most:  # gzip may have several members, one after the other
        unpacker = zlib.decompressobj(zlib.MAX_WBITS | (0 if coding == b"deflate" else 16))
        try:
            body += unpacker.decompress(packed, most + 1 - len(body))
        except zlib.error as failed:
            raise Unreadable(f"cannot be unpacked: {failed}") from None
        if not unpacker.eof and len(body) <= most:
            raise Unreadable("cannot be unpacked: it is cut short")
        packed = unpacker.unused_data
    return body
