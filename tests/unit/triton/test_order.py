"""Which tensor is which, on Triton as on the torch server: the program's own names say, not places in a file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tritonclient import grpc

from moorage_server import load, protocol
from moorage_server.failures import StartupError
from moorage_server.settings import Source

from .conftest import Triton

Start = Callable[..., Triton]

LEFT, RIGHT = np.array([[5, 7]], np.float32), np.array([[1, 2]], np.float32)


class Minus(torch.nn.Module):
    """Left and right are of one shape and kind: mixed up, they give an answer, and a wrong one."""

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"difference": left - right, "twice": left * 2}


def saved(folder: Path, form: str, inputs: list[str], outputs: list[str]) -> Path:
    """The model with a description written by hand, in the order of these names."""
    folder.mkdir()
    if form == "TorchExport":
        batch = torch.export.Dim("batch", min=1)
        example = (torch.ones(2, 2), torch.ones(2, 2))
        program = torch.export.export(Minus(), example, dynamic_shapes=({0: batch}, {0: batch}))
        torch.export.save(program, folder / "model.pt2")
    else:
        torch.jit.script(Minus()).save(str(folder / "model.pt"))  # type: ignore[no-untyped-call]
    listed = {
        kind: [{"name": name, "datatype": "FP32", "shape": [-1, 2]} for name in names]
        for kind, names in (("inputs", inputs), ("outputs", outputs))
    }
    (folder / "moorage.yaml").write_text(json.dumps(listed))
    return folder


def on_triton(server: Triton, outputs: list[str]) -> dict[str, list[Any]]:
    tensors = [grpc.InferInput(name, [1, 2], "FP32") for name in ("left", "right")]
    for tensor, value in zip(tensors, (LEFT, RIGHT), strict=True):
        tensor.set_data_from_numpy(value)
    with grpc.InferenceServerClient(server.grpc) as client:
        answer = client.infer("digits", tensors, client_timeout=60)
        return {name: answer.as_numpy(name).tolist() for name in outputs}


def on_torch(folder: Path, form: str) -> dict[str, list[Any]]:
    """What the torch server does with a request between its edge and its edge."""
    model = load.load(Source(folder, "digits", format=form), "CPU")
    tensors = [
        {"name": name, "datatype": "FP32", "shape": [1, 2], "data": value.tolist()}
        for name, value in (("left", LEFT), ("right", RIGHT))
    ]
    request = protocol.parse_request(json.dumps({"inputs": tensors}).encode(), model.signature)
    answer, _ = protocol.answer("digits", "1", request, model.run(request.inputs), model.signature)
    return {one["name"]: np.reshape(one["data"], one["shape"]).tolist() for one in json.loads(answer)["outputs"]}


@pytest.mark.parametrize(
    ("form", "outputs"), [("TorchExport", ["twice", "difference"]), ("TorchScript", ["difference"])]
)
def test_a_description_in_another_order_than_the_program(
    triton: Start, tmp_path: Path, form: str, outputs: list[str]
) -> None:
    folder = saved(tmp_path / "model", form, ["right", "left"], outputs)
    server = triton(folder, form=form).wait_until_ready()
    expected = {name: {"difference": [[4, 5]], "twice": [[10, 14]]}[name] for name in outputs}
    assert on_triton(server, outputs) == expected
    assert on_torch(folder, form) == expected


@pytest.mark.parametrize(
    ("form", "inputs", "outputs", "words"),
    [
        (
            "TorchExport",
            ["a", "b"],
            ["twice"],
            "moorage.yaml names the inputs ['a', 'b'], the program has ['left', 'right']: write the program's names",
        ),
        (
            "TorchScript",
            ["left", "right"],
            ["sum", "twice"],
            "moorage.yaml names the outputs ['sum', 'twice'], the program has ['difference', 'twice']",
        ),
    ],
    ids=["inputs", "outputs"],
)
def test_names_that_the_program_does_not_have_are_refused(
    triton: Start, tmp_path: Path, form: str, inputs: list[str], outputs: list[str], words: str
) -> None:
    folder = saved(tmp_path / "model", form, inputs, outputs)
    server = triton(folder, form=form)
    with pytest.raises(StartupError) as refused:
        on_torch(folder, form)
    assert refused.value.reason == "FormatMismatch"
    assert words in refused.value.message
    assert server.wait_until_ended() != 0
    assert words in server.words()[-2048:]  # what the kubelet keeps
