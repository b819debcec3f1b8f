"""Finding and loading models: signatures, digests, devices, and the words for what is wrong."""

import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moorage_server.failures import DeviceLost, StartupError
from moorage_server.load import load
from moorage_server.model import DTYPES, Model
from moorage_server.settings import Source
from moorage_server.signature import ARRAYS

from .conftest import CLASSES, FEATURES, export


def loaded(path: Path, *, device: str = "CPU", max_batch_size: int = 64, **more: str) -> Model:
    return load(Source(path, "m", **more), device, max_batch_size)


def refusal(path: Path, **settings: Any) -> StartupError:
    with pytest.raises(StartupError) as refused:
        loaded(path, **settings)
    return refused.value


class Adder(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return a + b, a - b


def test_signature_from_the_program(classifier: Path) -> None:
    signature = loaded(classifier).signature
    assert [str(spec) for spec in signature.inputs] == [f"'x' FP32 [-1, {FEATURES}]"]
    assert [str(spec) for spec in signature.outputs] == [f"'probabilities' FP32 [-1, {CLASSES}]", "'label' INT64 [-1]"]
    assert signature.batch is not None and signature.batch.low == 1


def test_it_answers_as_the_original_does(classifier: Path) -> None:
    x = torch.randn(5, FEATURES)
    expected = torch.export.load(classifier / "model.pt2").module()(x)
    probabilities, label = loaded(classifier).run([x.numpy()])
    np.testing.assert_allclose(probabilities, expected["probabilities"].detach().numpy(), rtol=1e-5)
    np.testing.assert_array_equal(label, expected["label"].numpy())


def test_a_single_file_is_a_model_too(classifier: Path, tmp_path: Path) -> None:
    file = tmp_path / "weights-of-monday.pt2"
    file.write_bytes((classifier / "model.pt2").read_bytes())
    assert loaded(file).signature.inputs[0].name == "x"


def test_names_of_outputs(tmp_path: Path) -> None:
    class Pair(NamedTuple):
        total: Tensor
        difference: Tensor

    class Nested(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Any]:
            return {"a": x, "b": (x + 1, {"c": x + 2})}

    class Single(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1

    two = (torch.ones(3, 2), torch.ones(3, 2))
    names = {
        "tuple": loaded(export(Adder(), two, tmp_path / "tuple")).signature.outputs,
        "nested": loaded(export(Nested(), two[:1], tmp_path / "nested")).signature.outputs,
        "single": loaded(export(Single(), two[:1], tmp_path / "single")).signature.outputs,
    }
    assert {kind: [spec.name for spec in specs] for kind, specs in names.items()} == {
        "tuple": ["output_0", "output_1"],
        "nested": ["a", "b_0", "b_1.c"],
        "single": ["output"],
    }


def test_bounds_and_common_dimensions(tmp_path: Path) -> None:
    batch, length = torch.export.Dim("batch", max=16), torch.export.Dim("length", min=2, max=9)
    shapes = ({0: batch, 1: length}, {0: batch, 1: length})
    folder = export(Adder(), (torch.ones(3, 4), torch.ones(3, 4)), tmp_path, shapes)
    a, b = loaded(folder).signature.inputs
    assert [(dim.low, dim.high) for dim in a.dims] == [(1, 16), (2, 9)]
    assert [dim.symbol for dim in a.dims] == [dim.symbol for dim in b.dims]


def test_a_static_batch_is_not_batched(tmp_path: Path) -> None:
    model = loaded(export(Adder(), (torch.ones(3, 2), torch.ones(3, 2)), tmp_path, None))
    assert model.signature.batch is None
    assert model.signature.inputs[0].shape == [3, 2]


@pytest.mark.parametrize("datatype", sorted(DTYPES))
def test_every_datatype_goes_in_and_out(datatype: str, tmp_path: Path) -> None:
    class Same(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x.clone(), x.reshape(-1, 1)

    model = loaded(export(Same(), (torch.zeros(3, dtype=DTYPES[datatype]),), tmp_path))
    assert [spec.datatype for spec in (*model.signature.inputs, *model.signature.outputs)] == [datatype] * 3
    sent = np.array([0, 1, 1], ARRAYS[datatype])
    same, column = model.run([sent])
    np.testing.assert_array_equal(same, sent)
    assert (same.dtype, column.shape) == (ARRAYS[datatype], (3, 1))


class Int8(nn.Module):
    """Weights of eight bits, numbers of 32: one scale a row, as torchao's weight-only quantisation has it."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", weight.abs().amax(1) / 127)
        self.register_buffer("weight", (weight / self.scale[:, None]).round().to(torch.int8))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.weight.t().to(x.dtype)) * self.scale


class Packed(Int8):
    """The same by torch's own kernel for it, which takes BF16."""

    def forward(self, x: Tensor) -> Tensor:
        return torch._weight_int8pack_mm(x.bfloat16(), self.weight, self.scale.bfloat16()).float()


@pytest.mark.parametrize(("kind", "close"), [(Int8, 0.02), (Packed, 0.1)])
def test_a_quantised_model(kind: type[Int8], close: float, tmp_path: Path) -> None:
    torch.manual_seed(0)
    weight, x = torch.rand(32, 64) - 0.5, torch.rand(5, 64)
    model = loaded(export(kind(weight), (torch.rand(2, 64),), tmp_path))
    assert (model.weights, model.bytes) == ("INT8", 32 * 64 + 32 * 4)
    np.testing.assert_allclose(model.run([x.numpy()])[0], x @ weight.t(), atol=close)


@pytest.mark.parametrize(("dtype", "name"), [(torch.float16, "FP16"), (torch.bfloat16, "BF16")])
def test_weights_of_sixteen_bits(dtype: torch.dtype, name: str, tmp_path: Path) -> None:
    class Narrow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 4, dtype=dtype)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x.to(dtype)).float()

    narrow, x = Narrow(), torch.rand(3, 8)
    model = loaded(export(narrow, (torch.rand(2, 8),), tmp_path))
    assert model.weights == name
    np.testing.assert_allclose(model.run([x.numpy()])[0], narrow(x).detach(), atol=0.02)


def test_a_description_names_and_narrows(tmp_path: Path) -> None:
    export(Adder(), (torch.ones(3, 2), torch.ones(3, 2)), tmp_path)
    (tmp_path / "moorage.yaml").write_text(
        "format: TorchExport\n"
        "inputs: [{name: b, datatype: FP32, shape: [-1, 2]}, {name: a, datatype: FP32, shape: [-1, 2]}]\n"
        "outputs: [{name: sum, datatype: FP32, shape: [-1, 2]}, {name: difference, datatype: FP32, shape: [-1, 2]}]\n"
    )
    model = loaded(tmp_path)
    # Inputs are known by their names whatever their order in the file; a tuple has no names, so its go by place.
    assert [spec.name for spec in model.signature.inputs] == ["a", "b"]
    assert [spec.name for spec in model.signature.outputs] == ["sum", "difference"]
    assert model.run([np.ones((1, 2), np.float32), np.ones((1, 2), np.float32)])[1].tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("format: TorchScript", "moorage.yaml says format TorchScript, the server was told TorchExport"),
        ("- x", "must be a mapping"),
        ("{", "is not YAML"),
        ("inputs: x", "inputs must be a list"),
        ("inputs: [{name: x}]", "inputs[0] must have name, datatype and shape"),
        ("inputs: [{name: x, datatype: FP8, shape: [-1]}]", "inputs[0].datatype is 'FP8'; it may be BOOL"),
        ("inputs: [{name: x, datatype: FP32, shape: [-2]}]", "inputs[0].shape must be a list of positive sizes"),
        ("inputs: [{name: x, datatype: FP32, shape: [-1, 9]}]", "says of inputs 'x' FP32 [-1, 9], the model itself"),
        ("inputs: [{name: x, datatype: FP64, shape: [-1, 8]}]", "says of inputs 'x' FP64 [-1, 8], the model itself"),
        (
            "outputs: [{name: y, datatype: FP32, shape: [-1, 3]}]",
            "names the outputs ['y'], the program has ['probabilities', 'label']: write the program's names",
        ),
        (
            "inputs: [{name: pixels, datatype: FP32, shape: [-1, 8]}]",
            "names the inputs ['pixels'], the program has ['x']: write the program's names",
        ),
        (
            "outputs: [{name: y, datatype: FP32, shape: [-1]}, {name: y, datatype: FP32, shape: [-1]}]",
            "outputs must have names that differ",
        ),
    ],
)
def test_a_wrong_description_is_told(classifier: Path, tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "model.pt2").write_bytes((classifier / "model.pt2").read_bytes())
    (tmp_path / "moorage.yaml").write_text(text)
    error = refusal(tmp_path)
    assert (error.reason, error.exit_code) == ("FormatMismatch", 65)
    assert words in error.message


def script(model: nn.Module, folder: Path, description: str | None) -> Path:
    torch.jit.script(model.eval()).save(folder / "model.pt")
    if description:
        (folder / "moorage.yaml").write_text(description)
    return folder


ADDER = """
format: TorchScript
inputs: [{name: b, datatype: FP32, shape: [-1, 2]}, {name: a, datatype: FP32, shape: [-1, 2]}]
outputs: [{name: sum, datatype: FP32, shape: [-1, 2]}, {name: difference, datatype: FP32, shape: [-1, 2]}]
"""


def test_torchscript_with_a_description(tmp_path: Path) -> None:
    model = loaded(script(Adder(), tmp_path, ADDER), format="TorchScript")
    assert model.signature.batch is not None
    b, a = np.ones((1, 2), np.float32), np.full((1, 2), 3, np.float32)
    assert [output.tolist() for output in model.run([b, a])] == [[[4, 4]], [[2, 2]]]


def test_torchscript_outputs_of_a_dict_go_by_name(tmp_path: Path) -> None:
    class Named(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"b": x + 2, "a": x + 1, "c": x}

    entry = "{{name: {0}, datatype: FP32, shape: [-1, 2]}}".format
    description = f"inputs: [{entry('x')}]\noutputs: [{entry('a')}, {entry('b')}]\n"
    model = loaded(script(Named(), tmp_path, description), format="TorchScript")
    assert [output[0, 0] for output in model.run([np.zeros((1, 2), np.float32)])] == [1, 2]


def test_torchscript_without_a_description(tmp_path: Path) -> None:
    error = refusal(script(Adder(), tmp_path, None), format="TorchScript")
    assert error.reason == "FormatMismatch" and "put a moorage.yaml beside model.pt" in error.message


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (", {name: a, datatype: FP32, shape: [-1, 2]}", "", "names the inputs ['b'], the program has ['a', 'b']"),
        ("name: a", "name: c", "names the inputs ['b', 'c'], the program has ['a', 'b']: write the program's names"),
        (
            ", {name: difference, datatype: FP32, shape: [-1, 2]}",
            "",
            "names the outputs ['sum'], the program has ['output_0', 'output_1']",
        ),
        (
            "sum, datatype: FP32",
            "sum, datatype: FP64",
            "output 'sum' FP64 [-1, 2] is described, the model gives float32",
        ),
        ("sum, datatype: FP32, shape: [-1, 2]", "sum, datatype: FP32, shape: [-1]", "the model gives float32 [1, 2]"),
    ],
)
def test_torchscript_with_a_wrong_description(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in ADDER
    error = refusal(script(Adder(), tmp_path, ADDER.replace(old, new)), format="TorchScript")
    assert words in error.message


def test_nothing_there(tmp_path: Path) -> None:
    error = refusal(tmp_path / "missing")
    assert (error.reason, error.message) == ("ModelNotFound", f"{tmp_path}/missing does not exist")
    (tmp_path / "notes.txt").write_text("x")
    assert "holds no model.pt2; it holds notes.txt" in refusal(tmp_path).message


def test_the_other_format(classifier: Path, tmp_path: Path) -> None:
    assert "holds model.pt2, which is TorchExport" in refusal(classifier, format="TorchScript").message
    script(Adder(), tmp_path, None)
    assert "holds model.pt, which is TorchScript" in refusal(tmp_path).message
    (tmp_path / "model.pt").rename(tmp_path / "model.pt2")
    assert "model.pt2 is TorchScript, the server was told TorchExport" in refusal(tmp_path).message


def test_something_else(tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_text("<html>not found</html>")
    error = refusal(tmp_path)
    assert error.reason == "FormatMismatch" and "is neither a torch.export archive nor TorchScript" in error.message


@pytest.mark.parametrize("keep", [0.2, 0.9, 0.999])
def test_a_file_cut_short(classifier: Path, tmp_path: Path, keep: float) -> None:
    content = (classifier / "model.pt2").read_bytes()
    (tmp_path / "model.pt2").write_bytes(content[: int(len(content) * keep)])
    error = refusal(tmp_path)
    assert (error.reason, error.exit_code) == ("ModelCorrupt", 65), error.message


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "model.pt2").touch()
    error = refusal(tmp_path)
    assert (error.reason, error.exit_code, error.message) == ("ModelCorrupt", 65, "model.pt2 is empty")


def test_a_flipped_bit(classifier: Path, tmp_path: Path) -> None:
    content = bytearray((classifier / "model.pt2").read_bytes())
    at = content.index(b'{"graph_module"') + 40
    content[at] ^= 1
    (tmp_path / "model.pt2").write_bytes(content)
    error = refusal(tmp_path)
    assert error.reason == "ModelCorrupt", error.message


def test_the_digest_of_a_file_and_of_a_folder(classifier: Path) -> None:
    file = classifier / "model.pt2"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    loaded(file, sha256=digest)
    listing = "find . -type f -printf '%P\\n' | LC_ALL=C sort | xargs -d '\\n' sha256sum | sha256sum"
    folder_digest = subprocess.check_output(listing, shell=True, cwd=classifier, text=True, timeout=120).split()[0]
    loaded(classifier, sha256=folder_digest)
    error = refusal(classifier, sha256=digest)
    assert (error.reason, error.exit_code) == ("DigestMismatch", 65)
    assert digest in error.message and folder_digest in error.message


def test_a_model_that_always_fails(tmp_path: Path) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ones(3)[x.long() + 99]

    error = refusal(export(Broken(), (torch.full((3,), -99.0),), tmp_path))
    assert (error.reason, error.exit_code) == ("LoadFailed", 1)
    assert "the model fails on zeros of shape [[1]]: IndexError" in error.message


def test_a_device_that_breaks_while_it_is_tried_out_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also where sizes are guessed, which excuses other failures. No device here can break: torch says that it did."""

    def raising(error: Exception) -> Callable[..., Any]:
        def run(self: Model, inputs: Any) -> Any:
            raise error

        return run

    free = "inputs: [{name: x, datatype: FP32, shape: [-1, -1]}]\noutputs: [{name: y, datatype: FP32, shape: [-1, -1]}]"

    class Same(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 1

    folder = script(Same(), tmp_path, free)
    monkeypatch.setattr(Model, "run", raising(ValueError("this size is not for me")))
    loaded(folder, format="TorchScript")
    monkeypatch.setattr(Model, "run", raising(DeviceLost("CUDA error: an illegal memory access")))
    error = refusal(folder, format="TorchScript")
    assert (error.reason, error.exit_code) == ("DeviceUnavailable", 1)
    assert error.message.endswith("while the model was loaded: DeviceLost: CUDA error: an illegal memory access")


def test_more_memory_than_there_is(tmp_path: Path) -> None:
    class Greedy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.repeat(1, 1 << 20).repeat(1, 1 << 26)[:, :1] + x  # 256 TiB

    error = refusal(script(Greedy(), tmp_path, GREEDY), format="TorchScript")
    assert (error.reason, error.exit_code) == ("OutOfMemory", 1), error.message


GREEDY = "inputs: [{name: x, datatype: FP32, shape: [-1, 1]}]\noutputs: [{name: y, datatype: FP32, shape: [-1, 1]}]\n"


def test_a_device_that_is_not_there(classifier: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    error = refusal(classifier, device="CUDA")
    assert (error.reason, error.exit_code) == ("DeviceUnavailable", 78)
    assert loaded(classifier, device="Auto").device == "cpu"
