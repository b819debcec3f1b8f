"""A port: its connections, how many there may be, who makes room, and their end.

The clock of all of them: what lasts too long is looked for here, a few times a second, so that no request sets a timer.
"""

import asyncio
import ssl
import time
from email.utils import formatdate

from . import http1, http2
from .messages import Application, Limits

_SWEEP_SECONDS = 0.25


Connection = http1.Connection | http2.Connection


class Door:
    """What all connections of a port have in common. `calls`: what answers gRPC, on a port that speaks it, too."""

    def __init__(self, application: Application, limits: Limits, calls: http2.Calls | None = None) -> None:
        self.application, self.limits, self.calls = application, limits, calls
        self.connections: set[Connection] = set()
        self.surplus = 0
        """Connections beyond the limit, for one answer each."""
        self.held = 0
        """Bytes of requests that have come and are not answered."""
        self.last_answers = False
        self.date = b""
        self._sweeping: asyncio.Task[None] | None = None
        self._server: asyncio.Server | None = None
        self.closed = False

    async def open(self, port: int, tls: ssl.SSLContext | None = None) -> asyncio.Server:
        """Raises OSError where it cannot listen."""
        loop = asyncio.get_running_loop()
        self._tell_date()
        # With TLS it is a connection once both have shaken hands.
        self._server = await loop.create_server(
            lambda: http1.Connection(self, loop),
            port=port,
            backlog=1024,
            ssl=tls,
            ssl_handshake_timeout=self.limits.head_seconds if tls else None,
        )
        self._sweeping = loop.create_task(self._sweep())
        return self._server

    def part(self) -> None:
        """Every answer closes its connection from now on, so that its client finds another server."""
        self.last_answers = True
        for connection in list(self.connections):
            if isinstance(connection, http2.Connection):
                connection.go_away()

    def close(self) -> None:
        """No new connections, and no idle ones; those that are busy close with their answer."""
        self.last_answers = self.closed = True
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.close_if_idle()

    async def end(self, seconds: float = 1.0) -> None:
        """All connections, in so many seconds: what was written is sent, if somebody takes it."""
        self.close()
        end = time.monotonic() + seconds
        while self.connections and time.monotonic() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        for connection in list(self.connections):
            connection.abort()
        if self._sweeping is not None:
            self._sweeping.cancel()

    def enter(self, connection: Connection) -> bool:
        """Whether there is room for one more. Whoever has been silent longest makes room, as nginx has it, and then who
        takes long to say what it wants: clients must not keep others out with connections that they do not use."""
        room = len(self.connections) - self.surplus < self.limits.connections
        if not room:
            unused = [one for one in self.connections if one.idle] or [one for one in self.connections if one.begun]
            if unused:
                first = min(unused, key=lambda one: one.heard)
                self.leave(first)
                first.abort()
                room = True
        self.connections.add(connection)
        self.surplus += not room
        return room

    def replace(self, connection: Connection, other: Connection) -> None:
        """The client is the same, and speaks another protocol."""
        self.connections.remove(connection)
        self.connections.add(other)

    def leave(self, connection: Connection) -> None:
        if connection in self.connections:
            self.connections.remove(connection)
            self.surplus -= connection.crowded

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            self._tell_date()
            now = loop.time()
            for connection in [one for one in self.connections if one.deadline <= now]:
                try:
                    connection.expired()
                except Exception as failed:
                    self.broke(failed)

    def broke(self, error: Exception) -> None:
        """A fault of ours, which must not be anybody else's."""
        asyncio.get_running_loop().call_exception_handler({"message": "a connection failed", "exception": error})

    def _tell_date(self) -> None:
        self.date = f"Date: {formatdate(usegmt=True)}\r\n".encode()
