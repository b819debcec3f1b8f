"""Requests and answers as the edge and the application hand them to one another, and what bounds them.

Data, and the promise of an application; how they travel is `http1`'s.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import unquote

import orjson

# The usual number, from nginx, for a client that did not wait; it is only counted and logged, never sent.
CLIENT_GONE = 499

# Bounds of every connection, whichever HTTP it speaks.
HEAD_BYTES = 32 * 1024
EACH_HEADER = 64  # bytes that a header costs besides its own: many small ones are large, too
# For how long a client that still sends is listened to after the last word: a reset would take that from it.
LINGER_SECONDS = 2.0
FOREVER = float("inf")


@dataclass(frozen=True, slots=True)
class Limits:
    connections: int = 1 << 16
    body_bytes: int = 1 << 20
    all_requests_bytes: int = 1 << 24
    head_seconds: float = 10
    body_seconds: float = 60
    idle_seconds: float = 120


class Connection(Protocol):
    """Where a request came from."""

    def answer(self, request: "Request", response: "Response") -> None: ...

    def begin(self, request: "Request", content_type: str, headers: str) -> None: ...

    def write(self, request: "Request", data: bytes) -> bool: ...

    def end(self, request: "Request", status: int, error: str) -> None: ...


class Response:
    __slots__ = ("body", "close", "content_type", "error", "headers", "status")

    def __init__(
        self,
        status: int,
        body: bytes,
        headers: str = "",
        *,
        content_type: str = "application/json",
        close: bool = False,
        error: str = "",
    ) -> None:
        """`headers`: more of them, as lines that each end in CRLF. `close`: the connection is of no more use."""
        self.status, self.body, self.headers, self.close = status, body, headers, close
        self.content_type, self.error = content_type, error


def error(status: int, message: str, headers: str = "", *, close: bool = False) -> Response:
    """As the Open Inference Protocol says what went wrong."""
    return Response(status, orjson.dumps({"error": message}), headers, close=close, error=message)


class Request:
    __slots__ = (
        "began", "body", "connection", "crowded", "finished", "headers", "held", "keep_alive", "method", "old",
        "on_room", "refusal", "size", "state", "target",
    )  # fmt: skip

    def __init__(self, connection: "Connection") -> None:
        self.connection = connection
        self.method = self.target = b""
        self.headers: dict[bytes, bytes] = {}
        """By their names in lower case; of one that came twice, the last."""
        self.body: bytes | bytearray = b""
        self.size = 0
        """Bytes of the body as it came."""
        self.held = 0
        """Bytes of its head and of its body, as it came or unpacked, in memory."""
        self.began = 0.0
        """When its head was there, by time.perf_counter()."""
        self.crowded = False
        """Its connection is one more than there should be: only who asks how the server is shall be answered."""
        self.keep_alive = True
        self.old = False
        self.refusal: Response | None = None
        self.finished = False
        self.state: Any = None
        """The application's own."""
        self.on_room: Callable[[], None] | None = None
        """Of an answer in pieces: called when its client has read what it had not."""

    @property
    def path(self) -> str:
        """Without its query, and decoded, but for a slash that is none between segments."""
        raw = self.target.partition(b"?")[0]
        return raw.decode("utf-8", "replace") if b"%2f" in raw.lower() else unquote(raw, errors="replace")

    def answer(self, response: Response) -> None:
        """Send it; nothing is sent where the client has gone."""
        self.connection.answer(self, response)

    # An answer in pieces, of status 200.

    def begin(self, content_type: str, headers: str = "") -> None:
        self.connection.begin(self, content_type, headers)

    def write(self, data: bytes) -> bool:
        """Whether there is room for more; if not, wait for `on_room`."""
        return self.connection.write(self, data)

    def end(self, status: int, error: str) -> None:
        """`status`: as it is counted and logged; the client was told 200."""
        self.connection.end(self, status, error)


class Application(Protocol):
    def head(self, request: Request) -> Response | None:
        """The head has come; an answer refuses the request without its body."""

    def call(self, request: Request) -> Response | None:
        """The request is whole. None: it is answered later, by `Request.answer`."""

    def done(self, request: Request, status: int, error: str) -> None:
        """Its answer is on its way, or its client has gone (499): once for each."""
