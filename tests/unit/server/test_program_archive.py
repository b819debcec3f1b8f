"""An exported program as it is read straight out of its archive: what torch's own reader makes of it, and sooner."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.export.pt2_archive._package import load_pt2
from torch.nn import functional as F

from moorage_server import archive, load
from moorage_server.settings import Source

from .conftest import ROOT, Classifier, Lookup, Slow

BATCH = Dim("batch")


class Function(nn.Module):
    def __init__(self, call: Callable[..., Any]) -> None:
        super().__init__()
        self.call = call

    def forward(self, *tensors: Tensor) -> Any:
        return self.call(*tensors)


class Buffers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.arange(4.0))
        self.register_buffer("left_out", torch.full((4,), 2.0), persistent=False)
        self.constant = torch.tensor([1.0, 2.0, 3.0, 4.0])

    def forward(self, x: Tensor) -> Tensor:
        return x * self.kept + self.left_out - self.constant


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embedding(ids))  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.layer = kind(4, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]  # type: ignore[no-any-return]


def images() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, groups=2), nn.GroupNorm(2, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2),
    )  # fmt: skip


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, activation="gelu")
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def attention(x: Tensor) -> Tensor:
    mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
    return F.scaled_dot_product_attention(x, x, x, attn_mask=mask)


X, IDS = torch.rand(3, 4), torch.tensor([[1, 2, 3], [4, 5, 6]])
MODELS: dict[str, tuple[nn.Module, tuple[Tensor, ...]]] = {
    "classifier, outputs in a dict": (Classifier(), (torch.rand(4, 8),)),
    "slow": (Slow(), (torch.rand(4, 2),)),
    "lookup": (Lookup(), (IDS,)),
    "images": (images(), (torch.rand(2, 3, 16, 16),)),
    "encoder": (encoder(), (torch.rand(2, 5, 16),)),
    "GRU": (Recurrent(nn.GRU), (torch.rand(2, 5, 4),)),
    "LSTM": (Recurrent(nn.LSTM), (torch.rand(2, 5, 4),)),
    "buffers": (Buffers(), (X,)),
    "tied weights": (Tied(), (IDS,)),
    "half": (nn.Linear(4, 2).half(), (X.half(),)),
    "bfloat16": (nn.Linear(4, 2).bfloat16(), (X.bfloat16(),)),
    "double": (nn.Linear(4, 2).double(), (X.double(),)),
    "two inputs, a tuple": (Function(lambda a, b: (a + b, a - b)), (X, X * 2)),
    "pieces of a tensor": (Function(lambda x: torch.cat([*x.split([1, 3], 1), *x.chunk(2, 1)], 1)), (X,)),
    "several returns": (Function(lambda x: {"values": x.topk(2)[0], "order": x.sort(dim=1, descending=True)[1]}), (X,)),
    "one of several returns": (Function(lambda x: x.max(dim=1)[0]), (X,)),
    "indices": (Function(lambda x: x[:, [0, 2]] + x[:, :2][:, [1, 1]]), (X,)),
    "sizes": (Function(lambda x: x.reshape(x.shape[0], 2, 2).sum(-1) * x.shape[0]), (X,)),
    "made from sizes": (Function(lambda x: x + torch.arange(x.shape[0], dtype=torch.float32)[:, None]), (X,)),
    "casts": (Function(lambda x: x.to(torch.float64).round().to(torch.int32).bool() | (x > 0.5)), (X,)),
    "numbers beyond": (Function(lambda x: x.masked_fill(x > 0.5, float("-inf")).clamp(min=-3.5)), (X,)),
    "layout": (Function(lambda x: x.to(memory_format=torch.channels_last).contiguous()), (torch.rand(2, 3, 4, 4),)),
    "attention": (Function(attention), (torch.rand(2, 4, 6),)),
    "larger": (Function(lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest")), (torch.rand(2, 3, 4, 4),)),
    "padded": (Function(lambda x: F.pad(x, (1, 2), value=7.0)), (X,)),
    "in place": (Function(lambda x: x.clone().add_(1).mul_(x)), (X,)),
    "nested": (Function(lambda x: {"a": [x, (x + 1, x + 2)], "b": x.unbind(1)[0]}), (X,)),
    "norm": (Function(lambda x: F.normalize(x, dim=1) + F.layer_norm(x, [4])), (X,)),
    "einsum": (Function(lambda x: torch.einsum("bi,bj->bij", x, x)), (X,)),
    "strings": (Function(lambda x: torch.div(x, 0.3, rounding_mode="floor")), (X,)),
}


def exported(model: nn.Module, given: tuple[Tensor, ...], file: Path, dynamic: bool = True) -> Path:
    shapes = ({0: BATCH},) * len(given)
    spec: Any = shapes if not isinstance(model, Function) else (shapes,)
    program = torch.export.export(model.eval(), given, dynamic_shapes=spec if dynamic else None)
    torch.export.save(program, file)
    return file


@pytest.mark.parametrize("name", MODELS)
def test_the_same_as_torch_reads(name: str, tmp_path: Path) -> None:
    model, given = MODELS[name]
    file = exported(model, given, tmp_path / "model.pt2")
    read = archive.read(file)
    program = load_pt2(str(file)).exported_programs["model"]
    theirs = load._signature(program)
    assert [str(spec) for spec in read.signature.inputs] == [str(spec) for spec in theirs.inputs]
    assert [str(spec) for spec in read.signature.outputs] == [str(spec) for spec in theirs.outputs]
    assert read.signature.batch_sizes(64) == theirs.batch_sizes(64)
    assert (read.signature.batch is None) == (theirs.batch is None)
    assert read.signature.shared == theirs.shared
    assert [list(tensor.shape) for tensor in read.examples] == [list(tensor.shape) for tensor in given]
    assert read.gives == program.call_spec.out_spec
    call = load.flat(program)
    assert read.flat.convolves == call.convolves
    for rows in (1, 2, 7):
        tensors = [tensor[:1].repeat(rows, *[1] * (tensor.dim() - 1)) for tensor in given]
        with torch.inference_mode():
            mine = read.flat([tensor.clone() for tensor in tensors])
            expected = call([tensor.clone() for tensor in tensors])
        for one, other in zip(mine, expected, strict=True):
            assert one.stride() == other.stride()
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_bounds_of_sizes(tmp_path: Path) -> None:
    rows = Dim("rows", min=2, max=9)
    program = torch.export.export(nn.Linear(4, 2), (X,), dynamic_shapes=({0: rows},))
    torch.export.save(program, tmp_path / "model.pt2")
    (spec,) = archive.read(tmp_path / "model.pt2").signature.inputs
    assert (spec.dims[0].low, spec.dims[0].high) == (2, 9)


def test_a_fixed_size(tmp_path: Path) -> None:
    read = archive.read(exported(nn.Linear(4, 2), (X,), tmp_path / "model.pt2", dynamic=False))
    assert read.signature.batch is None
    assert read.signature.inputs[0].shape == [3, 4]


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x - 1, (x,))  # type: ignore[no-any-return]


OTHERS: dict[str, tuple[nn.Module, tuple[Tensor, ...]]] = {
    "control flow": (Branches(), (X,)),
    "a size that is a sum": (Function(lambda x: torch.cat([x, x])), (X,)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_more_is_left_to_torch(name: str, tmp_path: Path) -> None:
    model, given = OTHERS[name]
    file = exported(model, given, tmp_path / "model.pt2")
    with pytest.raises(archive.Other):
        archive.read(file)
    served = load.load(Source(file, "m"), "CPU")
    (got,) = served.run([tensor.numpy() for tensor in given])
    torch.testing.assert_close(torch.from_numpy(got), model(*given))


def test_no_tracer_and_no_algebra_are_imported(tmp_path: Path) -> None:
    exported(Classifier(), (torch.rand(4, 8),), tmp_path / "model.pt2")
    program = (
        "import sys; from pathlib import Path; from moorage_server import load; from moorage_server.settings import "
        f"Source; load.load(Source(Path({str(tmp_path)!r}), 'm'), 'CPU'); "
        "print(sorted({'torch._dynamo', 'torch._inductor', 'sympy', 'PIL', 'tokenizers'} & sys.modules.keys()))"
    )
    env = {"PYTHONPATH": str(ROOT / "images/torch"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
