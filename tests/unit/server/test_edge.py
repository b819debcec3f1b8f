"""The protocol's paths in this process: what one request leaves behind."""

import asyncio
import gc
from pathlib import Path
from typing import ClassVar

import httpx
import numpy as np

from moorage_server.door import Door
from moorage_server.edge import Edge
from moorage_server.messages import Limits, Request
from moorage_server.metrics import Metrics
from moorage_server.protocol import InferRequest
from moorage_server.repository import Repository
from moorage_server.settings import Settings, Source
from moorage_server.signature import Array, Dim, Signature, TensorSpec

KNOWN = Signature(
    (TensorSpec("x", "FP32", (Dim(-1, "batch"), Dim(2))),), (TensorSpec("y", "FP32", (Dim(-1, "batch"),)),)
)


class Sum:
    signature = KNOWN
    device, warm_up_seconds, bytes, inline, preprocess, weights = "cpu", 0.0, 0, True, None, "FP32"
    batch_seconds: ClassVar[dict[int, float]] = {64: 0.001}

    def run(self, inputs: list[Array]) -> list[Array]:
        return [inputs[0].sum(axis=1, dtype=np.float32)]

    def close(self) -> None: ...


def alive() -> set[int]:
    return {id(found) for found in gc.get_objects() if type(found) in (Request, InferRequest)}


async def test_nothing_of_a_request_waits_for_the_garbage_collector(tmp_path: Path) -> None:
    settings, metrics = Settings((Source(tmp_path, "m"),)), Metrics()
    repository = Repository(settings, metrics, lambda source, known: Sum())
    await repository.start()
    edge = Edge(settings, metrics, repository)
    door = Door(edge, Limits())
    server = await door.open(0)
    port = min(server.sockets, key=lambda one: one.family).getsockname()[1]
    gc.collect()
    gc.disable()
    before = alive()
    try:
        async with httpx.AsyncClient() as client:
            for _ in range(3):
                body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
                answer = await client.post(f"http://127.0.0.1:{port}/v2/models/m/infer", json=body)
                assert answer.json()["outputs"][0]["data"] == [3.0]
        await door.end()
        await asyncio.sleep(0)
        assert (alive() - before, metrics.in_flight.now, door.held) == (set(), 0, 0)
    finally:
        gc.enable()
