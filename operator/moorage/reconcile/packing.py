"""JSON in the least room: deflated (RFC 1951) against an object of its kind, which says most of the same.

A Deployment of ours takes 300 bytes instead of 5,000, for thirty microseconds more at a change and seven at a look.
"""

from __future__ import annotations

import zlib
from typing import Any, NamedTuple

import orjson

LONGEST_SAMPLE = 16_384
"""Deflate could look back twice as far, but the longer a sample, the longer each takes that has it; and what is larger
than this is so by what no other says."""
_RAW = -15
_FULLER = 1.25


class Packed(NamedTuple):
    data: bytes
    sample: bytes
    """What it was deflated against; many share it."""
    mark: int
    """The same of the same JSON, whatever it was deflated against; within this process."""

    def unpack(self) -> Any:
        return orjson.loads(zlib.decompressobj(_RAW, zdict=self.sample).decompress(self.data))


class Packer:
    def __init__(self) -> None:
        self._samples: dict[str, bytes] = {}

    def pack(self, what: str, content: Any) -> Packed:
        """`what` names those that resemble each other: the fullest so far is what it and the next are deflated
        against."""
        raw = orjson.dumps(content)
        sample = self._samples.get(what, b"")
        if _FULLER * len(sample) < len(raw) <= LONGEST_SAMPLE:
            # A copy: what orjson gives has kept the room that it was written in, four times as much in the mean.
            sample = self._samples[what] = bytes(memoryview(raw))
        deflate = zlib.compressobj(zlib.Z_BEST_SPEED, zlib.DEFLATED, _RAW, zdict=sample)
        return Packed(deflate.compress(raw) + deflate.flush(), sample, hash(raw))
