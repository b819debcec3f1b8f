"""HTTP/2's frames and heads as they are on the wire (RFC 9113, RFC 7541): numbers, bytes, and what is wrong with them.

No state: what a connection makes of them is `http2`'s.
"""

import enum
import struct

from .messages import EACH_HEADER

FRAME = struct.Struct(">HBBBI")  # length (16 + 8 bits), type, flags, stream
DATA, HEADERS, PRIORITY, RESET, SETTINGS, PROMISE, PING, GO_AWAY, WINDOW, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, PRIORITISED = 0x4, 0x8, 0x20


class Code(enum.IntEnum):
    """Why a connection or a call ends."""

    NO_ERROR, PROTOCOL, INTERNAL, FLOW = 0x0, 0x1, 0x2, 0x3
    CLOSED, SIZE, REFUSED, CANCEL, COMPRESSION, CALM = 0x5, 0x6, 0x7, 0x8, 0x9, 0xB


# Settings.
HEADER_TABLE, PUSH, CALLS, CALL_WINDOW, FRAME_BYTES, HEAD_LIST = range(1, 7)
MOST = 2**31 - 1

# Those of a connection, which HTTP/2 does not have.
_FORBIDDEN = {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
_PSEUDO = {b":method", b":scheme", b":path", b":authority"}


class Broken(Exception):
    """The connection is of no more use."""

    def __init__(self, code: int, why: str) -> None:
        self.code, self.why = code, why


class Reset(Exception):
    """A call is of no more use."""

    def __init__(self, id: int, code: int) -> None:
        self.id, self.code = id, code


class Head:
    """Of a call; `malformed` says what is wrong with it."""

    __slots__ = ("headers", "length", "malformed", "method", "path", "plain", "size")

    def __init__(self, fields: "list[tuple[bytes, bytes]]") -> None:
        self.headers: dict[bytes, bytes] = {}
        self.size = sum([len(name) + len(value) + EACH_HEADER for name, value in fields])
        self.malformed = ""
        pseudo: dict[bytes, bytes] = {}
        for name, value in fields:
            if name.startswith(b":"):
                if self.headers or name in pseudo or name not in _PSEUDO:
                    self.malformed = "a pseudo-header that is unknown, late or there twice"
                pseudo[name] = value
            else:
                if name != name.lower() or name in _FORBIDDEN or (name == b"te" and value != b"trailers"):
                    self.malformed = "a header that HTTP/2 does not have"
                self.headers[name] = value
        if not all(pseudo.get(name) for name in (b":method", b":scheme", b":path")):
            self.malformed = self.malformed or "no method, scheme or path"
        self.method, self.path = pseudo.get(b":method", b""), pseudo.get(b":path", b"")
        self.plain = not pseudo
        """As the head that ends a call has to be."""
        length = self.headers.get(b"content-length", b"")
        self.length = int(length) if length.isdigit() and len(length) < 19 else -1


def frame(kind: int, flags: int, id: int, payload: bytes = b"") -> bytes:
    size = len(payload)
    return FRAME.pack(size >> 8, size & 0xFF, kind, flags, id) + payload


def literal(name: bytes, value: bytes) -> bytes:
    """A header in HPACK, out of no table and into none (RFC 7541, 6.2.2)."""
    return b"\0" + _string(name) + _string(value)


def _string(value: bytes) -> bytes:
    size = len(value)
    if size < 127:
        return bytes((size,)) + value
    prefix, size = b"\x7f", size - 127
    while size > 127:
        prefix, size = prefix + bytes((size & 0x7F | 0x80,)), size >> 7
    return prefix + bytes((size,)) + value


OK_HEAD = b"\x88" + literal(b"content-type", b"application/grpc")  # 0x88: status 200, out of HPACK's fixed table
ACCEPTS = literal(b"grpc-accept-encoding", b"identity, deflate, gzip")
OK_TRAILERS = literal(b"grpc-status", b"0")
NO_TABLE = b"\x20"  # we remember no headers: whatever a client's limit is, it is kept


def unpadded(data: bytes, start: int, end: int, flags: int) -> bytes:
    if not flags & PADDED:
        return data[start:end]
    if start == end or data[start] >= end - start:
        raise Broken(Code.PROTOCOL, "more padding than frame")
    return data[start + 1 : end - data[start]]


def check_dependency(id: int, payload: bytes) -> None:
    if int.from_bytes(payload[:4], "big") & MOST == id:
        raise Reset(id, Code.PROTOCOL)
