"""aiohttp's connection with a bound on the time a request's head may take, which aiohttp lacks.

A client that sends a byte now and then would else keep its connection, and what belongs to it, for ever.
"""

import asyncio
from typing import Any

from aiohttp import web


class Connection(web.RequestHandler):
    def __init__(self, server: web.Server, head_seconds: float, **options: Any) -> None:
        self._events = asyncio.get_running_loop()
        super().__init__(server, loop=self._events, access_log=None, **options)  # type: ignore[arg-type]
        self._head_seconds = head_seconds
        self._head: asyncio.TimerHandle | None = None
        self._in_request = False

    def data_received(self, data: bytes) -> None:
        # Without data it is aiohttp itself that calls, to go on with what it has.
        if data and self._head is None and not self._in_request:
            self._head = self._events.call_later(self._head_seconds, self.force_close)
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._cancel()
        super().connection_lost(exc)

    def head_came(self, request: web.BaseRequest) -> None:
        """What comes from now on belongs to the body, up to its end."""
        self._cancel()
        self._in_request = True
        request.content.on_eof(self._body_came)

    def _body_came(self) -> None:
        self._in_request = False

    def _cancel(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None
