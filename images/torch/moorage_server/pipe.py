"""What the server and a model in a process of its own say to one another: messages over a socket, arrays in memory that
both see.

A message is JSON behind its length. Arrays lie one after the other in an anonymous file (memfd_create(2): unlike
/dev/shm it has no size of its own in a container), one for each direction, which holds what the last message is about.
Both sides run on the same machine: numbers are as they are in memory.
"""

import mmap
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from . import protocol
from .signature import ARRAYS, BYTES, Array, TensorSpec

_LENGTH = 4
_FIRST_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Ends:
    """File descriptors of the side that has the model."""

    calls: int
    """Blocking, one question at a time."""
    streams: int
    taken: int
    given: int


def encode(message: Any) -> bytes:
    content = orjson.dumps(message)
    return len(content).to_bytes(_LENGTH, "little") + content


class Reader:
    """Whole messages out of pieces."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        rest = self._rest
        rest += data
        found, at = [], 0
        while len(rest) >= (begin := at + _LENGTH):
            end = begin + int.from_bytes(rest[at:begin], "little")
            if end > len(rest):
                break
            found.append(orjson.loads(rest[begin:end]))
            at = end
        del rest[:at]
        return found


def send(peer: socket.socket, message: Any) -> None:
    peer.sendall(encode(message))


def receive(peer: socket.socket) -> Any:
    """The next message. Raises EOFError where the other side has gone."""
    return orjson.loads(_exactly(peer, int.from_bytes(_exactly(peer, _LENGTH), "little")))


def _exactly(peer: socket.socket, count: int) -> bytearray:
    buffer = bytearray(count)
    view, at = memoryview(buffer), 0
    while at < count:
        got = peer.recv_into(view[at:])
        if not got:
            raise EOFError
        at += got
    return buffer


class Shelf:
    """Arrays, as one side leaves them for the other until it leaves the next."""

    def __init__(self, file: int) -> None:
        self.file = file
        self._memory: mmap.mmap | None = None

    @classmethod
    def new(cls, name: str) -> "Shelf":
        return cls(os.memfd_create(name))

    def put(self, arrays: Sequence[tuple[str, str, Array]]) -> list[dict[str, Any]]:
        """Names, datatypes and arrays; what the other side has to be told of them."""
        parts = [_bytes(datatype, array) for _, datatype, array in arrays]
        memory, at = self._room(sum(len(part) for part in parts)), 0
        for part in parts:
            memory[at : at + len(part)] = part
            at += len(part)
        return [
            {"name": name, "datatype": datatype, "shape": array.shape, "size": len(part)}
            for (name, datatype, array), part in zip(arrays, parts, strict=True)
        ]

    def take(self, told: Sequence[dict[str, Any]]) -> dict[str, Array]:
        """Copies by name: the next will lie in the same place."""
        memory, at = memoryview(self._room(sum(one["size"] for one in told))), 0
        found = {}
        try:
            for one in told:
                part = memory[at : at + one["size"]]
                found[one["name"]] = _array(part, one["datatype"], one["shape"])
                at += one["size"]
                part.release()
        finally:
            memory.release()
        return found

    def _room(self, size: int) -> mmap.mmap:
        if self._memory is None or len(self._memory) < size:
            there = os.fstat(self.file).st_size
            if there < size or not there:
                there = max(_FIRST_BYTES, 1 << (size - 1).bit_length()) if size else _FIRST_BYTES
                os.ftruncate(self.file, there)
            if self._memory is not None:
                self._memory.close()
            self._memory = mmap.mmap(self.file, there)
        return self._memory

    def close(self) -> None:
        if self._memory is not None:
            self._memory.close()
            self._memory = None
        os.close(self.file)
        self.file = -1


def _bytes(datatype: str, array: Array) -> bytes | memoryview:
    if datatype == BYTES:
        return protocol.to_bytes(TensorSpec("", BYTES, ()), array)
    return np.ascontiguousarray(array, ARRAYS[datatype]).reshape(-1).view(np.uint8).data


def _array(part: memoryview, datatype: str, shape: list[int]) -> Array:
    if datatype == BYTES:
        return protocol.of_bytes(part, shape, TensorSpec("", BYTES, ()))
    return np.frombuffer(part, ARRAYS[datatype]).reshape(shape).copy()
