"""Weights (safetensors) with the torch.nn.Module that takes them: what they give, and the words for what is wrong."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from .conftest import FEATURES, Start, fp32

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, hidden, tied=False):
        super().__init__()
        self.first = nn.Linear(8, hidden)
        self.second = nn.Linear(hidden, 3)
        if tied:
            self.again = self.second

    def forward(self, bias, x):
        if (x == 13).any():
            raise ValueError("thirteen is refused")
        probabilities = (self.second(self.first(x.to(self.first.weight.dtype)).relu()).float() + bias).softmax(-1)
        if (x == 14).any():
            probabilities = probabilities.as_subclass(Late)
        if (x == 15).any():
            torch.empty(1 << 60)
        return {"probabilities": probabilities, "label": probabilities.argmax(-1)}

class Late(torch.Tensor):
    def cpu(self):
        raise torch.AcceleratorError("an illegal memory access")

class Wide(Net):
    def forward(self, bias, x):
        return {name: tensor.double() for name, tensor in super().forward(bias, x).items()}

class Labelled(Net):
    def __init__(self, hidden, names, most):
        super().__init__(hidden)
        assert names == {0: "cat"} and most == float("inf")

class Greedy(Net):
    def __init__(self, hidden):
        torch.empty(1 << 60)

class Picky(Net):
    def forward(self, bias, x):
        if len(x) == 8:
            raise ValueError("eight are refused")
        return super().forward(bias, x)

class Inner:
    Net = Net

def number():
    return 5

def broken():
    raise OSError("no disk")
"""
YAML = """
module: net:Net
arguments: {hidden: 4}
inputs: [{name: x, datatype: FP32, shape: [-1, 8]}, {name: bias, datatype: FP32, shape: [-1, 3]}]
outputs: [{name: label, datatype: INT64, shape: [-1]}, {name: probabilities, datatype: FP32, shape: [-1, 3]}]
"""
Tensors = dict[str, torch.Tensor]


def made(**arguments: Any) -> nn.Module:
    space: dict[str, Any] = {}
    exec(NET, space)
    torch.manual_seed(0)
    net: nn.Module = space["Net"](hidden=4, **arguments)
    return net


def folder(where: Path, description: str = YAML, weights: Tensors | None = None, program: str = NET) -> Path:
    where.mkdir(parents=True, exist_ok=True)
    (where / "net.py").write_text(program)
    if description:
        (where / "moorage.yaml").write_text(description)
    save_file(made().state_dict() if weights is None else weights, where / "model.safetensors")
    return where


def asked(x: list[float], bias: list[float]) -> dict[str, Any]:
    return {"inputs": [fp32([x]), {"name": "bias", "datatype": "FP32", "shape": [1, 3], "data": bias}]}


@pytest.mark.parametrize("module", ["net:Net", "net:Inner.Net"])
def test_what_goes_in_and_comes_out(module: str, start_server: Start, tmp_path: Path) -> None:
    server = start_server(folder(tmp_path, YAML.replace("net:Net", module)), MOORAGE_MODEL_FORMAT="Safetensors")
    x = [0.1 * i for i in range(FEATURES)]
    for bias in ([0.0, 0.0, 0.0], [0.0, 9.0, 0.0]):
        label, probabilities = httpx.post(server.url + server.infer_path, json=asked(x, bias)).json()["outputs"]
        want = made()(torch.tensor([bias]), torch.tensor([x]))
        np.testing.assert_allclose(probabilities["data"], want["probabilities"].detach().numpy()[0], rtol=1e-5)
        assert label == {"name": "label", "datatype": "INT64", "shape": [1], "data": want["label"].tolist()}
    described = httpx.get(f"{server.url}/v2/models/digits").json()
    assert (described["platform"], described["parameters"]) == ("pytorch_module", {"weights": "FP32"})
    assert server.metrics()["moorage_server_warm_up_seconds"] > 0

    failed = httpx.post(server.url + server.infer_path, json=asked([13.0] * FEATURES, [0.0] * 3))
    assert failed.status_code == 500 and "thirteen is refused (net.py, line " in failed.json()["error"]


def test_arguments_that_json_has_not(start_server: Start, tmp_path: Path) -> None:
    more = "hidden: 4, names: {0: cat}, most: .inf"
    description = YAML.replace("net:Net", "net:Labelled").replace("hidden: 4", more)
    server = start_server(folder(tmp_path, description), MOORAGE_MODEL_FORMAT="Safetensors")
    failed = httpx.post(server.url + server.infer_path, json=asked([15.0] * FEATURES, [0.0] * 3))
    assert failed.status_code == 500 and "it needs more memory than there is" in failed.json()["error"]


def test_buffers_of_one_name_serve_all(start_server: Start, tmp_path: Path) -> None:
    program = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = self.second = torch.nn.BatchNorm1d(2)
    def forward(self, x):
        return self.second(x)
"""
    description = """
module: net:Net
inputs: [{name: x, datatype: FP32, shape: [-1, 2]}]
outputs: [{name: y, datatype: FP32, shape: [-1, 2]}]
"""
    weights = {f"first.{name}": weight for name, weight in nn.BatchNorm1d(2).state_dict().items()}
    server = start_server(folder(tmp_path, description, weights, program), MOORAGE_MODEL_FORMAT="Safetensors")
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}]}
    answer = httpx.post(server.url + server.infer_path, json=body).json()
    np.testing.assert_allclose(answer["outputs"][0]["data"], [1.0, 2.0], rtol=1e-4)


def test_weights_stay_as_they_are_and_those_of_one_name_serve_all(start_server: Start, tmp_path: Path) -> None:
    weights = {name: weight.bfloat16() for name, weight in made(tied=True).state_dict().items() if "again" not in name}
    description = YAML.replace("hidden: 4", "hidden: 4, tied: true")
    server = start_server(folder(tmp_path, description, weights), MOORAGE_MODEL_FORMAT="Safetensors")
    assert httpx.get(f"{server.url}/v2/models/digits").json()["parameters"] == {"weights": "BF16"}
    answer = httpx.post(server.url + server.infer_path, json=asked([0.5] * FEATURES, [0.0] * 3)).json()
    want = made()(torch.zeros(1, 3), torch.full((1, FEATURES), 0.5))["probabilities"]
    np.testing.assert_allclose(answer["outputs"][1]["data"], want.detach().numpy()[0], atol=0.02)


def test_a_device_that_breaks_ends_it(start_server: Start, tmp_path: Path) -> None:
    """The error is made up, when results are fetched: there is no device that could break."""
    server = start_server(folder(tmp_path), MOORAGE_MODEL_FORMAT="Safetensors")
    failed = httpx.post(server.url + server.infer_path, json=asked([14.0] * FEATURES, [0.0] * 3))
    assert failed.status_code == 500
    assert server.process.wait(30) == 1
    assert server.termination["reason"] == "ModelCrashed"
    assert "the device broke: AcceleratorError: an illegal memory access" in server.log_file.read_text()


def test_pictures_are_made_into_its_input(start_server: Start, tmp_path: Path) -> None:
    description = """
module: torch.nn:Flatten
inputs: [{name: input, datatype: FP32, shape: [-1, 3, 2, 2]}]
outputs: [{name: y, datatype: FP32, shape: [-1, 12]}]
preprocess: {input: {type: Image}}
"""
    server = start_server(folder(tmp_path, description, {}), MOORAGE_MODEL_FORMAT="Safetensors")
    picture = io.BytesIO()
    Image.new("RGB", (2, 2), (255, 0, 51)).save(picture, "PNG")
    described = httpx.get(f"{server.url}/v2/models/digits").json()
    assert described["inputs"] == [{"name": "input", "datatype": "BYTES", "shape": [-1]}]
    size = len(picture.getvalue()) + 4
    head = {"name": "input", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": size}}
    asked = json.dumps({"inputs": [head]}).encode()
    body = asked + len(picture.getvalue()).to_bytes(4, "little") + picture.getvalue()
    headers = {"Inference-Header-Content-Length": str(len(asked))}
    answer = httpx.post(server.url + server.infer_path, content=body, headers=headers).json()
    np.testing.assert_allclose(answer["outputs"][0]["data"], [1] * 4 + [0] * 4 + [0.2] * 4, rtol=1e-6)


def write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda where: (where / name).write_bytes(content)


BAD: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "no description": (lambda where: (where / "moorage.yaml").unlink(), "FormatMismatch", "module: MODULE:NAME"),
    "no module": (write("moorage.yaml", b"inputs: []"), "FormatMismatch", "module: MODULE:NAME"),
    "a path of files": (write("moorage.yaml", YAML.replace("net:Net", "net.py").encode()), "FormatMismatch", "net:Net"),
    "a list of arguments": (
        write("moorage.yaml", YAML.replace("{hidden: 4}", "[4]").encode()),
        "FormatMismatch",
        "arguments a mapping",
    ),
    "texts": (write("moorage.yaml", YAML.replace("FP32", "BYTES").encode()), "FormatMismatch", "which torch has not"),
    "no such day": (
        write("moorage.yaml", YAML.replace("{hidden: 4}", "{day: 2024-13-45}").encode()),
        "FormatMismatch",
        "is not YAML",
    ),
    "fails on a size between": (
        write("moorage.yaml", YAML.replace("net:Net", "net:Picky").encode()),
        "LoadFailed",
        "eight are refused",
    ),
    "no weights": (lambda where: (where / "model.safetensors").unlink(), "ModelNotFound", "holds no model.safetensors"),
    "damaged": (write("model.safetensors", b"\x80\x02 a pickle"), "ModelCorrupt", "is damaged or cut short"),
    "no such file": (
        lambda where: (where / "net.py").unlink(),
        "FormatMismatch",
        "net is neither beside model.safetensors nor in",
    ),
    "no such class": (write("net.py", b"x = 1"), "FormatMismatch", "module net has no Net that could be called"),
    "what it lacks itself": (write("net.py", b"import elsewhere"), "LoadFailed", "'elsewhere' (net.py, line 1)"),
    "fails": (
        write("moorage.yaml", YAML.replace("net:Net", "net:broken").replace("hidden: 4", "").encode()),
        "LoadFailed",
        "OSError: no disk (net.py, line ",
    ),
    "makes no module": (
        write("moorage.yaml", YAML.replace("net:Net", "net:number").replace("hidden: 4", "").encode()),
        "FormatMismatch",
        "makes a int, not a torch.nn.Module",
    ),
    "arguments of another": (
        write("moorage.yaml", YAML.replace("hidden", "width").encode()),
        "LoadFailed",
        "unexpected keyword argument 'width'",
    ),
    "weights of another": (
        lambda where: save_file({"third": torch.zeros(1)}, where / "model.safetensors"),
        "FormatMismatch",
        'Missing key(s) in state_dict: "first.weight"',
    ),
    "another size": (
        write("moorage.yaml", YAML.replace("hidden: 4", "hidden: 5").encode()),
        "FormatMismatch",
        "size mismatch for first",
    ),
    "other inputs": (
        write("moorage.yaml", YAML.replace("name: bias", "name: offset").encode()),
        "FormatMismatch",
        "names the inputs ['x', 'offset']",
    ),
    "other outputs": (
        write("moorage.yaml", YAML.replace("name: label", "name: class").encode()),
        "FormatMismatch",
        "names the outputs ['class', 'probabilities'], the program has ['probabilities', 'label']",
    ),
    "another shape of an output": (
        write(
            "moorage.yaml",
            YAML.replace(
                "name: label, datatype: INT64, shape: [-1]", "name: label, datatype: INT64, shape: [-1, 1]"
            ).encode(),
        ),
        "FormatMismatch",
        "output 'label' INT64 [-1, 1] is described, the model gave",
    ),
    "another datatype": (
        write("moorage.yaml", YAML.replace("net:Net", "net:Wide").encode()),
        "FormatMismatch",
        "output 'label' is described as torch.int64, the module gives torch.float64",
    ),
    "too large": (write("moorage.yaml", YAML.replace("net:Net", "net:Greedy").encode()), "OutOfMemory", "more memory"),
    "another shape": (
        write("moorage.yaml", YAML.replace("[-1, 3]}]\noutputs", "[-1, 2]}]\noutputs").encode()),
        "LoadFailed",
        "fails on zeros",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_model_is_told(case: str, start_server: Start, tmp_path: Path) -> None:
    change, reason, words = BAD[case]
    change(folder(tmp_path))
    server = start_server(tmp_path, ready=False, MOORAGE_MODEL_FORMAT="Safetensors")
    assert server.process.wait(60) != 0
    assert (server.termination["reason"], words in server.termination["message"]) == (reason, True), server.termination


def test_a_file_alone_is_none(start_server: Start, tmp_path: Path) -> None:
    file = folder(tmp_path) / "model.safetensors"
    server = start_server(file, ready=False, MOORAGE_MODEL_FORMAT="Safetensors")
    assert server.process.wait(30) != 0
    assert "a model of format Safetensors is a folder with model.safetensors" in server.termination["message"]
