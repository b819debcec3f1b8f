"""A load generator that notices every request that fails.

Two shapes: `workers` clients that each send the next request when the last is answered (closed loop), or a fixed
`rate` (open loop). Connections are renewed every second unless a test wants them kept, since kube-proxy chooses a pod
per connection and long-lived ones would never see a new replica. Only ever pointed at loopback addresses, always
bounded in time.
"""

import asyncio
import contextlib
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Self

import aiohttp
import orjson


@dataclass
class Load:
    """Runs in a thread of its own from `start` to `stop`, for at most `max_seconds`."""

    url: str
    body: dict[str, object]
    workers: int = 8
    rate: float | None = None
    max_seconds: float = 120
    renew_seconds: float = 1
    sent: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._payload = orjson.dumps(self.body)
        self._next = 0.0

    @property
    def failed(self) -> int:
        return sum(self.failures.values())

    def start(self) -> Self:
        self._thread.start()
        return self

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=60)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def _run(self) -> None:
        self._end = time.monotonic() + self.max_seconds
        self._next = time.monotonic()
        await asyncio.gather(*(self._worker() for _ in range(self.workers)))

    def _over(self) -> bool:
        return self._stop.is_set() or time.monotonic() > self._end

    async def _worker(self) -> None:
        while not self._over():
            renew = time.monotonic() + self.renew_seconds
            timeout = aiohttp.ClientTimeout(total=30)
            async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=1)) as session:
                while time.monotonic() < renew and not self._over():
                    await self._turn()
                    await self._once(session)

    async def _turn(self) -> None:
        """Waits for this request's place in the fixed rate, if there is one."""
        if self.rate is None:
            return
        at, self._next = self._next, self._next + 1 / self.rate
        if (wait := at - time.monotonic()) > 0:
            await asyncio.sleep(wait)

    async def _once(self, session: aiohttp.ClientSession) -> None:
        start = time.perf_counter()
        self.sent += 1
        try:
            headers = {"Content-Type": "application/json"}
            async with session.post(self.url, data=self._payload, headers=headers) as answer:
                await answer.read()
                if answer.status != 200:
                    self.failures[f"HTTP {answer.status}"] += 1
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.sleep(0.05)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self.failures[type(error).__name__] += 1
            await asyncio.sleep(0.05)
        self.seconds.append(time.perf_counter() - start)
