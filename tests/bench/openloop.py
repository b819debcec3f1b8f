"""Requests at a fixed rate, whatever becomes of them, on a core of its own: an open loop, as many users are one.

wrk sends its next request when the last was answered, and so never more than a server can do. `python -m
bench.openloop` does what its standard input says and tells on its standard output what came.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import quantiles
from urllib.parse import urlsplit

from bench.wrk import CLIENT_CORE


@dataclass(frozen=True)
class Run:
    """Milliseconds. `good`: 200; `refused`: 429 or 503; `broken`: another answer, or none."""

    sent: int
    good: int
    good_in_time: int
    """Before the last was sent."""
    refused: int
    broken: int
    unsent: int
    """For want of a free connection."""
    without_retry_after: int
    """Of the refused."""
    good_p50: float
    good_p99: float
    refused_p99: float


def load(
    url: str, body: bytes, headers: Mapping[str, str], *, rate: float, connections: int, seconds: float = 8
) -> Run:
    wish = {"url": url, "body": body.hex(), "headers": dict(headers), "rate": rate, "connections": connections}
    argv = ["taskset", "-c", str(CLIENT_CORE), sys.executable, "-m", "bench.openloop"]
    told = json.dumps({**wish, "seconds": seconds})
    done = subprocess.run(argv, input=told, capture_output=True, text=True, check=True)
    return Run(**json.loads(done.stdout))


class _Loop:
    def __init__(self, url: str, body: bytes, headers: Mapping[str, str]) -> None:
        parts = urlsplit(url)
        self._address = parts.hostname, parts.port
        lines = [f"{name}: {value}" for name, value in {**headers, "Content-Length": str(len(body))}.items()]
        head = "\r\n".join([f"POST {parts.path} HTTP/1.1", f"Host: {parts.netloc}", *lines, "", ""])
        self._request = head.encode() + body
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._took: dict[str, list[float]] = {"good": [], "refused": []}
        self._broken = self._unsent = self._no_retry = self._in_time = 0
        self._end = 0.0

    async def run(self, rate: float, connections: int, seconds: float) -> Run:
        self._free = [await asyncio.open_connection(*self._address) for _ in range(connections)]
        begin, number = time.perf_counter(), 0
        self._end = begin + seconds
        async with asyncio.TaskGroup() as group:
            while (now := time.perf_counter() - begin) < seconds:
                if (wait := number / rate - now) > 0:
                    await asyncio.sleep(wait)
                number += 1
                if self._free:
                    group.create_task(self._one(*self._free.pop()))
                else:
                    self._unsent += 1
        good, refused = self._took["good"], self._took["refused"]
        return Run(
            sent=number - self._unsent, good=len(good), good_in_time=self._in_time, refused=len(refused),
            broken=self._broken, unsent=self._unsent,
            without_retry_after=self._no_retry,
            good_p50=_percentile(good, 50), good_p99=_percentile(good, 99), refused_p99=_percentile(refused, 99),
        )  # fmt: skip

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        start = time.perf_counter()
        try:
            writer.write(self._request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.partition(b"\r\ncontent-length: ")[2].split()[0]))
        except (OSError, asyncio.IncompleteReadError):
            self._broken += 1
            writer.close()
            reader, writer = await asyncio.open_connection(*self._address)
        else:
            took, status = (time.perf_counter() - start) * 1000, int(head.split()[1])
            if status == 200:
                self._took["good"].append(took)
                self._in_time += time.perf_counter() < self._end
            elif status in (429, 503):
                self._took["refused"].append(took)
                self._no_retry += b"\r\nretry-after: " not in head
            else:
                self._broken += 1
            if b"\r\nconnection: close" in head:
                writer.close()
                reader, writer = await asyncio.open_connection(*self._address)
        self._free.append((reader, writer))


def _percentile(values: list[float], percent: int) -> float:
    return quantiles(values, n=100)[percent - 1] if len(values) > 1 else 0.0


if __name__ == "__main__":
    import uvloop

    wish = json.load(sys.stdin)
    loop = _Loop(wish["url"], bytes.fromhex(wish["body"]), wish["headers"])
    print(json.dumps(asdict(uvloop.run(loop.run(wish["rate"], wish["connections"], wish["seconds"])))))
