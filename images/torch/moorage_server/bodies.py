"""Reads the bodies of requests within bounds: on the size and time of one, and on the size of all together.

Without the last, clients that send large bodies slowly could fill the memory with the beginnings of them. A body counts
until its request is answered, for what waits in the queue was made of it.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web


class TooLarge(Exception):
    """One body is larger than any may be."""


class TooSlow(Exception):
    """A body did not come within its time."""


class NoRoom(Exception):
    """All bodies together are as large as they may be."""


class Bodies:
    def __init__(self, max_bytes: int, max_total_bytes: int, seconds: float) -> None:
        self._max_bytes = max_bytes
        self._max_total_bytes = max_total_bytes
        self._seconds = seconds
        self.total = 0

    @asynccontextmanager
    async def read(self, request: web.Request) -> AsyncIterator[bytearray]:
        """The body, which counts while this is open."""
        body = bytearray()
        try:
            # Before anything is sent in vain. Only what has come is counted: a claim costs a client nothing.
            self._check(request.content_length or 0, self.total + (request.content_length or 0))
            try:
                async with asyncio.timeout(self._seconds):
                    async for chunk in request.content.iter_any():
                        self._check(len(body) + len(chunk), self.total + len(chunk))
                        body += chunk
                        self.total += len(chunk)
            except TimeoutError:
                raise TooSlow from None
            yield body
        finally:
            self.total -= len(body)

    def _check(self, one: int, total: int) -> None:
        if one > self._max_bytes:
            raise TooLarge
        if total > self._max_total_bytes:
            raise NoRoom
