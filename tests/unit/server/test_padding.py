"""Requests of different sizes in one batch: each gets what it would have got alone."""

import asyncio
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moorage_server.engine import Engine, Result
from moorage_server.failures import StartupError
from moorage_server.load import load
from moorage_server.model import Model
from moorage_server.settings import Source
from moorage_server.signature import Array

from .conftest import export

IDS = {"name": "ids", "datatype": "INT64", "shape": [-1, -1], "padding": 0}
MASK = {"name": "mask", "datatype": "FP32", "shape": [-1, -1], "padding": 0}


class Masked(nn.Module):
    """A mean over the tokens that count, and something for each token."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.Embedding(50, 4), nn.Linear(4, 2)

    def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        found = self.table(ids)
        mean = (found * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
        return {"scores": self.head(mean), "tokens": self.head(found)}


class Padded(nn.Module):
    """Gives one more than it takes."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, x[:, :1]), 1)


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", max=512)
    example = (torch.zeros(3, 7, dtype=torch.int64), torch.ones(3, 7))
    dims = ({0: batch, 1: length}, {0: batch, 1: length})
    return export(Masked(), example, tmp_path_factory.mktemp("masked"), dims)


def loaded(folder: Path, *inputs: dict[str, Any]) -> Model:
    (folder / "moorage.yaml").write_text(json.dumps({"inputs": inputs}))
    return load(Source(folder, "m"), "CPU", 64)


def request(length: int, rows: int = 1) -> list[Array]:
    chance = np.random.default_rng(length)
    return [chance.integers(0, 50, (rows, length)), np.ones((rows, length), np.float32)]


def answers(model: Model, requests: Iterable[list[Array]]) -> tuple[list[list[Array]], list[int]]:
    """What each gets where all come at once; and the rows of each batch."""
    batches: list[int] = []

    async def all_at_once() -> list[list[Array]]:
        with ThreadPoolExecutor(1) as thread:
            engine = Engine(model, thread, observe_batch=batches.append)
            waiting = []
            for inputs in requests:
                waiting.append(asyncio.get_running_loop().create_future())

                def done(result: Result, answer: asyncio.Future[list[Array]] = waiting[-1]) -> None:
                    assert not isinstance(result, Exception), result
                    answer.set_result(result)

                engine.submit(inputs, len(inputs[0]), done)
            return await asyncio.gather(*waiting)

    return asyncio.run(all_at_once()), batches


def test_each_gets_what_it_would_have_got_alone(masked: Path) -> None:
    model = loaded(masked, IDS, MASK)
    requests = [request(length, rows) for length, rows in ((9, 1), (16, 2), (12, 1), (100, 1), (65, 3), (1, 1))]
    found, batches = answers(model, requests)
    assert batches == [4, 4, 1], "9 to 16 together, 65 to 128, and 1"
    for inputs, (scores, tokens) in zip(requests, found, strict=True):
        alone = model.run(inputs)
        assert tokens.shape == alone[1].shape
        np.testing.assert_allclose(scores, alone[0], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(tokens, alone[1], rtol=1e-4, atol=1e-6)


def test_without_it_only_equal_sizes_go_together(masked: Path) -> None:
    model = loaded(masked)
    assert answers(model, [request(9), request(16), request(9)])[1] == [2, 1]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({**IDS, "padding": "0"}, "inputs[0].padding is '0'; it must be a number"),
        ({**IDS, "padding": True}, "it must be a number"),
        ({**IDS, "padding": 0.5}, "which is no INT64"),
        ({**IDS, "datatype": "UINT8", "padding": -1}, "which is no UINT8"),
        ({**IDS, "datatype": "BYTES"}, "of an input of numbers"),
        ({**IDS, "datatype": "FP16", "padding": 1e6}, "which is no FP16"),
        ({**IDS, "shape": [-1, 7]}, "no free size"),
    ],
)
def test_what_cannot_be_is_told(masked: Path, entry: dict[str, Any], words: str) -> None:
    with pytest.raises(StartupError) as refused:
        loaded(masked, entry, MASK)
    assert refused.value.reason == "FormatMismatch" and words in refused.value.message


def test_what_cannot_be_cut_back_is_told(tmp_path: Path) -> None:
    dims = ({0: torch.export.Dim("batch"), 1: torch.export.Dim("length")},)
    folder = export(Padded(), (torch.ones(3, 7),), tmp_path, dims)
    with pytest.raises(StartupError) as refused:
        loaded(folder, {"name": "x", "datatype": "FP32", "shape": [-1, -1], "padding": 0})
    assert "the size of output" in refused.value.message
