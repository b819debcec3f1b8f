"""One small question to a pod of ours. What runs there may be the user's program: it may say anything, as slowly and as
much as it likes."""

from __future__ import annotations

import aiohttp


async def small_text(session: aiohttp.ClientSession, url: str, *, seconds: float, limit: int) -> str | None:
    """The answer, if it comes in time, is one, and has at most `limit` bytes."""
    try:
        timeout = aiohttp.ClientTimeout(total=seconds)
        async with session.get(url, timeout=timeout, allow_redirects=False) as response:
            if response.status != 200:
                return None
            body = bytearray()
            async for chunk in response.content.iter_chunked(65_536):
                body += chunk
                if len(body) > limit:
                    return None
            return body.decode()
    except (aiohttp.ClientError, OSError, ValueError):  # a TimeoutError is an OSError
        return None
