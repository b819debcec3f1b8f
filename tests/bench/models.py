"""Models of the server's benchmark, their requests, and how many rows a second they do with nothing around them."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
import torch
from torch import Tensor, nn
from tritonclient.grpc import service_pb2


class Mlp(nn.Module):
    """64 → 256 → 10."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


class Conv(nn.Module):
    """Two convolutions over 3 × 32 × 32."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(32 * 8 * 8, 10),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """Of BERT-tiny's size: two layers of 128 with two heads, over 128 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30522, 128)
        layer = nn.TransformerEncoderLayer(128, 2, 512, batch_first=True, activation="gelu", dropout=0.0)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(128, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(ids))[:, 0])  # type: ignore[no-any-return]


class Dense(nn.Module):
    """16 layers of 768, whose weights (36 MiB) have to come from memory: a row alone takes 3 to 4 ms, 64 together five
    times that."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(layer for _ in range(16) for layer in (nn.Linear(768, 768), nn.ReLU())))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Case:
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    datatype: str = "FP32"

    def example(self, rows: int) -> Tensor:
        shape = (rows, *self.shape)
        return torch.randint(0, 1000, shape) if self.datatype == "INT64" else torch.rand(shape)

    def export(self, folder: Path, seed: int = 0) -> None:
        torch.manual_seed(seed)
        batch = torch.export.Dim("batch", min=1, max=1024)
        program = torch.export.export(self.make().eval(), (self.example(4),), dynamic_shapes=({0: batch},))
        folder.mkdir(parents=True, exist_ok=True)
        torch.export.save(program, folder / "model.pt2")

    def freeze(self, path: Path) -> None:
        """As TorchScript, which other servers take."""
        torch.manual_seed(0)
        torch.jit.save(torch.jit.freeze(torch.jit.trace(self.make().eval(), self.example(4))), path)

    @property
    def large(self) -> bool:
        """JSON of it costs more than the model."""
        return math.prod(self.shape) > 1000

    def request(self, *, binary: bool) -> tuple[bytes, dict[str, str]]:
        """One row: body and headers."""
        array = self.example(1).numpy()
        name = "ids" if self.datatype == "INT64" else "x"
        tensor = {"name": name, "datatype": self.datatype, "shape": list(array.shape)}
        if not binary:
            body = orjson.dumps({"inputs": [{**tensor, "data": array.ravel().tolist()}]})
            return body, {"Content-Type": "application/json"}
        said = {
            "inputs": [{**tensor, "parameters": {"binary_data_size": array.nbytes}}],
            "parameters": {"binary_data_output": True},
        }
        header = orjson.dumps(said)
        lengths = {"Inference-Header-Content-Length": str(len(header)), "Content-Type": "application/octet-stream"}
        return header + array.tobytes(), lengths

    def message(self) -> bytes:
        """One row, as a ModelInferRequest of gRPC."""
        array = self.example(1).numpy()
        request = service_pb2.ModelInferRequest(model_name="m", raw_input_contents=[array.tobytes()])
        name = "ids" if self.datatype == "INT64" else "x"
        request.inputs.add(name=name, datatype=self.datatype, shape=array.shape)
        return request.SerializeToString()  # type: ignore[no-any-return]


CASES = {
    "mlp": Case(Mlp, (64,)),
    "conv": Case(Conv, (3, 32, 32)),
    "transformer": Case(Encoder, (128,), "INT64"),
    "dense": Case(Dense, (768,)),
}


def rows_per_second(folder: Path, case: Case, rows: int, seconds: float = 3.0) -> float:
    """Of bare forward passes in batches of `rows`, by the code and with the threads that the server uses."""
    from moorage_server.load import load
    from moorage_server.settings import Source

    model = load(Source(folder, "m"))
    inputs = [np.ascontiguousarray(case.example(rows).numpy())]
    for _ in range(3):
        model.run(inputs)
    begin, passes = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        model.run(inputs)
        passes += 1
    return passes * rows / (time.perf_counter() - begin)
