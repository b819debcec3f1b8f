"""Exported models on a real tritonserver: the recipe's, a bare export, TorchScript; over HTTP and gRPC, in batches."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tritonclient import grpc, http
from tritonclient.utils import InferenceServerException

from moorage_trainer.recipe import export
from moorage_trainer.recipe.config import parse
from moorage_trainer.recipe.dataset import Table
from moorage_trainer.recipe.train import Training, Worker
from support import digits
from support.triton import CONFIG

from .conftest import Triton

Start = Callable[..., Triton]


@pytest.fixture(scope="module")
def digits_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the quickstart trains, in short."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    x, _, y, _ = train_test_split(x, y, test_size=360, random_state=0, stratify=y)
    recipe = parse(json.dumps({"task": "Classification", "target": "y", "epochs": 15}))
    table = Table(x.astype(np.float32), y.astype(np.int64), list(range(10)))
    result = Training(recipe, table, Worker(0, 1, torch.device("cpu"))).run()
    folder = tmp_path_factory.mktemp("digits")
    examples = torch.from_numpy(table.x[:16])
    export.save(result.model, examples, folder, form="TorchExport", classes=table.classes, metrics=result.metrics)
    return folder


def over_grpc(address: str, x: np.ndarray, name: str = "digits") -> dict[str, np.ndarray]:
    with grpc.InferenceServerClient(address) as client:
        tensor = grpc.InferInput("x", list(x.shape), "FP32")
        tensor.set_data_from_numpy(x)
        answer = client.infer(name, [tensor], client_timeout=60)
        return {output.name: answer.as_numpy(output.name) for output in answer.get_response().outputs}


def labels(answer: dict[str, np.ndarray]) -> np.ndarray:
    """Triton has rows of length 1 where the model gives a single value a row."""
    assert answer["label"].ndim == 2
    return answer["label"][:, 0]


def over_http(address: str, x: np.ndarray) -> dict[str, np.ndarray]:
    client = http.InferenceServerClient(address)
    try:
        tensor = http.InferInput("x", list(x.shape), "FP32")
        tensor.set_data_from_numpy(x, binary_data=False)
        answer = client.infer("digits", [tensor])
        return {name: answer.as_numpy(name) for name in ("probabilities", "label")}
    finally:
        client.close()


def test_the_trained_digits(triton: Start, digits_model: Path) -> None:
    server = triton(digits_model).wait_until_ready()
    x, truth = digits.held_out()

    with grpc.InferenceServerClient(server.grpc) as client:
        assert client.is_model_ready("digits")
        metadata = client.get_model_metadata("digits", as_json=True)
        config = client.get_model_config("digits", as_json=True)["config"]
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": ["-1", "64"]}]
    described = [(output["name"], output["datatype"], output["shape"]) for output in metadata["outputs"]]
    assert described == [("probabilities", "FP32", ["-1", "10"]), ("label", "INT64", ["-1", "1"])]
    assert config["max_batch_size"] == 64

    parts = [over_grpc(server.grpc, part) for part in np.array_split(x, 9)]
    label = np.concatenate([labels(part) for part in parts])
    assert float((label == truth).mean()) >= 0.95
    probabilities = np.concatenate([part["probabilities"] for part in parts])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    answer = over_http(server.http, x[:40])
    np.testing.assert_array_equal(labels(answer), label[:40])
    np.testing.assert_allclose(answer["probabilities"], probabilities[:40], atol=1e-5)

    # Sixteen at once: each gets its own answer back, and Triton made batches of them.
    before = executions(server)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda row: over_grpc(server.grpc, x[row : row + 1 + row % 3]), range(300)))
    for row, given in enumerate(answers):
        np.testing.assert_allclose(given["probabilities"], probabilities[row : row + 1 + row % 3], atol=1e-5)
    assert executions(server) - before < 300

    with pytest.raises(InferenceServerException, match="unexpected shape"):
        over_grpc(server.grpc, np.zeros((1, 63), np.float32))
    with pytest.raises(InferenceServerException, match="batch-size must be <= 64"):
        over_grpc(server.grpc, np.zeros((65, 64), np.float32))


def executions(server: Triton) -> float:
    lines = [line for line in server.metrics.splitlines() if line.startswith("nv_inference_exec_count{")]
    return float(lines[0].split()[-1])


class Two(torch.nn.Module):
    """Names of its own for its outputs, two inputs of different kinds, and an output that is no float."""

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"sum": left.sum(dim=1) + right, "positive": left > 0}


def test_a_bare_export_says_itself_what_it_takes(triton: Start, tmp_path: Path) -> None:
    batch = torch.export.Dim("batch", min=1)
    example = (torch.ones(2, 3), torch.ones(2, dtype=torch.int64))
    program = torch.export.export(Two(), example, dynamic_shapes=({0: batch}, {0: batch}))
    # A single file, called as the operator calls what it fetched.
    torch.export.save(program, tmp_path / "model.pt2")
    (tmp_path / "model.pt2").rename(tmp_path / "artifact")
    server = triton(tmp_path / "artifact").wait_until_ready()
    with grpc.InferenceServerClient(server.grpc) as client:
        left, right = np.array([[1, -2, 3], [4, 5, 6]], np.float32), np.array([[10], [20]])
        tensors: list[Any] = [grpc.InferInput("left", [2, 3], "FP32"), grpc.InferInput("right", [2, 1], "INT64")]
        tensors[0].set_data_from_numpy(left)
        tensors[1].set_data_from_numpy(right)
        answer = client.infer("digits", tensors, client_timeout=60)
        assert answer.as_numpy("sum").tolist() == [[12.0], [35.0]]
        assert answer.as_numpy("positive").tolist() == [[True, False, True], [True, True, True]]


class Fixed(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.cumsum(dim=0)


def test_without_batching_a_fixed_shape_is_served(triton: Start, tmp_path: Path) -> None:
    torch.export.save(torch.export.export(Fixed(), (torch.ones(4),)), tmp_path / "model.pt2")
    config = 'name: "digits"\nbackend: "python"\nmax_batch_size: 0\n'
    server = triton(tmp_path, config).wait_until_ready()
    assert over_grpc(server.grpc, np.ones(4, np.float32))["output"].tolist() == [1, 2, 3, 4]


class Picky(torch.nn.Module):
    """Fails on what it is given, as a TorchScript with an assertion does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool((x < 0).any()):
            raise ValueError("negative values are refused")
        return x * 2


def test_torchscript_with_a_description_and_a_request_at_fault(triton: Start, tmp_path: Path) -> None:
    torch.jit.script(Picky()).save(str(tmp_path / "model.pt"))  # type: ignore[no-untyped-call]
    (tmp_path / "moorage.yaml").write_text(
        "format: TorchScript\ninputs:\n- {name: x, datatype: FP32, shape: [-1, 2]}\n"
        "outputs:\n- {name: doubled, datatype: FP32, shape: [-1, 2]}\n"
    )
    # A long delay, so that the good and the bad request share a batch.
    config = CONFIG.replace("max_queue_delay_microseconds: 0", "max_queue_delay_microseconds: 300000")
    server = triton(tmp_path, config, form="TorchScript").wait_until_ready()
    good, bad = np.ones((1, 2), np.float32), -np.ones((1, 2), np.float32)

    def ask(x: np.ndarray) -> list[list[float]] | str:
        try:
            rows: list[list[float]] = over_grpc(server.grpc, x)["doubled"].tolist()
            return rows
        except InferenceServerException as error:
            return str(error)

    with ThreadPoolExecutor(3) as pool:
        first, second, third = pool.map(ask, [good, bad, good])
    assert (first, third) == ([[2.0, 2.0]], [[2.0, 2.0]])
    assert "negative values are refused" in second
    assert "trying each alone" in server.words()
