"""The protocol's paths in this process: what one request leaves behind."""

import asyncio
import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np

from moorage_server.door import Door
from moorage_server.edge import Edge, Serving
from moorage_server.engine import Engine
from moorage_server.messages import Limits, Request
from moorage_server.metrics import Metrics
from moorage_server.protocol import InferRequest
from moorage_server.settings import Settings
from moorage_server.signature import Array, Dim, Signature, TensorSpec

KNOWN = Signature(
    (TensorSpec("x", "FP32", (Dim(-1, "batch"), Dim(2))),), (TensorSpec("y", "FP32", (Dim(-1, "batch"),)),)
)


class Sum:
    signature = KNOWN

    def run(self, inputs: list[Array]) -> list[Array]:
        return [inputs[0].sum(axis=1, dtype=np.float32)]


def alive() -> set[int]:
    return {id(found) for found in gc.get_objects() if type(found) in (Request, InferRequest)}


async def test_nothing_of_a_request_waits_for_the_garbage_collector(tmp_path: Path) -> None:
    metrics = Metrics("m", "1")
    edge = Edge(Settings(tmp_path, "m"), metrics)
    with ThreadPoolExecutor(1) as thread:
        edge.serving = Serving(KNOWN, Engine(Sum(), thread))  # type: ignore[arg-type]
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
