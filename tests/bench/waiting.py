"""Waiting for something that has to be asked for again and again."""

import asyncio
from collections.abc import Awaitable, Callable

Tell = Callable[[str], None]


async def until_done(missing: Callable[[], Awaitable[str]], timeout: float, tell: Tell, every: float = 0.5) -> None:
    """`missing` says what is missing, and nothing when nothing is."""
    last = ""
    try:
        async with asyncio.timeout(timeout):
            while last := await missing():
                tell(last)
                await asyncio.sleep(every)
    except TimeoutError:
        raise AssertionError(f"after {timeout:.0f} s still: {last or 'no answer'}") from None
