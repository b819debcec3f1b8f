"""What cannot be served ends tritonserver with words that say why: they are what the kubelet and the operator see."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from .conftest import Triton

Start = Callable[..., Triton]


class Double(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


def exported(folder: Path, fixed: bool = False) -> Path:
    shapes = None if fixed else ({0: torch.export.Dim("batch", min=1)},)
    program = torch.export.export(Double(), (torch.ones(2, 3),), dynamic_shapes=shapes)
    torch.export.save(program, folder / "model.pt2")
    return folder


def described(folder: Path, shape: list[int], datatype: str = "FP32", name: str = "y") -> Path:
    tensors = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}],
        "outputs": [{"name": name, "datatype": datatype, "shape": shape}],
    }
    (folder / "moorage.yaml").write_text(json.dumps(tensors))
    return exported(folder)


def noise(folder: Path) -> Path:
    (folder / "model.pt2").write_bytes(b"\x00\x01noise" * 1000)
    return folder


def script(folder: Path) -> Path:
    torch.jit.script(Double()).save(str(folder / "model.pt"))  # type: ignore[no-untyped-call]
    return folder


CASES: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "noise": (noise, "TorchExport", "cannot be loaded as a torch.export archive"),
    "absent": (lambda folder: folder / "not" / "here", "TorchExport", "there is no model at"),
    "other format": (script, "TorchExport", "there is model.pt"),
    "script without description": (script, "TorchScript", "put a moorage.yaml beside model.pt"),
    "fixed batch": (lambda folder: exported(folder, fixed=True), "TorchExport", "maxBatchSize to 0"),
    "description of another shape": (lambda f: described(f, [-1, 4]), "TorchExport", "output y is described as FP32"),
    "unknown datatype": (lambda f: described(f, [-1, 3], "FLOAT"), "TorchExport", "it may be BOOL"),
}


@pytest.mark.parametrize("case", CASES)
def test_words_of_a_model_that_cannot_be_loaded(triton: Start, tmp_path: Path, case: str) -> None:
    make, form, words = CASES[case]
    model = tmp_path / "model"
    model.mkdir()
    server = triton(make(model), form=form)
    assert server.wait_until_ended() != 0
    assert words in server.words()
    # The last lines are all that is kept of a log as a termination message.
    assert "failed to load all models" in server.words()[-4000:]
