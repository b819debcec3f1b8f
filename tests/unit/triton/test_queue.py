"""What waits on Triton, as the operator configures it: so many and no more, by priority, and not beyond its time."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from tritonclient import grpc
from tritonclient.utils import InferenceServerException

from support.triton import CONFIG, LIMITED

from .conftest import Triton

Start = Callable[..., Triton]
WAITING = 6


class Slow(torch.nn.Module):
    """About half a second a pass, whatever the rows; gives back what it got."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.rand(1000, 1000) / 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight
        for _ in range(30):
            weight = weight @ self.weight
        return x + weight.sum() * 0


@pytest.fixture
def server(triton: Start, tmp_path: Path) -> Triton:
    folder = tmp_path / "slow"
    folder.mkdir()
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(Slow().eval(), (torch.ones(2, 1),), dynamic_shapes=({0: batch},))
    torch.export.save(program, folder / "model.pt2")
    config = CONFIG.replace("max_batch_size: 64", "max_batch_size: 1")
    server = triton(folder, config.replace("dynamic_batching {", "dynamic_batching {" + LIMITED % WAITING))
    server.wait_until_ready()
    ask(server, 0)  # the first pass takes longer
    return server


def ask(server: Triton, number: int, **options: Any) -> float:
    """When it was answered."""
    with grpc.InferenceServerClient(server.grpc) as client:
        name = client.get_model_metadata("digits").inputs[0].name
        tensor = grpc.InferInput(name, [1, 1], "FP32")
        tensor.set_data_from_numpy(np.array([[number]], np.float32))
        client.infer("digits", [tensor], **options)
        return time.monotonic()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as pool:
        yield pool


def soon(pool: ThreadPoolExecutor, server: Triton, count: int, **options: Any) -> list[Future[float]]:
    asked = [pool.submit(ask, server, number, **options) for number in range(count)]
    time.sleep(0.3)
    return asked


def test_more_than_may_wait_are_refused_at_once(server: Triton, pool: ThreadPoolExecutor) -> None:
    begin = time.monotonic()
    asked = soon(pool, server, 24)
    refused = [one for one in asked if one.done() and one.exception()]
    took = time.monotonic() - begin
    assert len(refused) >= 24 - WAITING - 4, took  # one runs, one is at the model's door, and one may have ended
    assert all("Exceeds maximum queue size" in str(one.exception()) for one in refused)
    others = [one for one in asked if one not in refused]
    assert sum(1 for one in others if one.exception() is None) >= WAITING


def test_who_waits_longer_than_it_said_is_not_run(server: Triton, pool: ThreadPoolExecutor) -> None:
    asked = soon(pool, server, 4)
    with pytest.raises(InferenceServerException, match="timeout expired"):
        ask(server, 9, timeout=100_000)
    name = httpx.get(f"http://{server.http}/v2/models/digits").json()["inputs"][0]["name"]
    tensor = {"name": name, "datatype": "FP32", "shape": [1, 1], "data": [1.0]}
    late = httpx.post(
        f"http://{server.http}/v2/models/digits/infer",
        json={"inputs": [tensor], "parameters": {"timeout": 100_000}},
        timeout=60,
    )
    assert late.status_code in (503, 504) or "timeout" in late.json()["error"], late.text
    assert all(one.exception() is None for one in asked)


def test_the_urgent_go_first(server: Triton, pool: ThreadPoolExecutor) -> None:
    usual = soon(pool, server, 5)
    urgent = ask(server, 9, priority=1)
    assert sum(one.result() > urgent for one in usual) >= 2
