"""ONNX models: what they take and give, the numbers, and the words for what is wrong with one."""

import hashlib
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from moorage_server.failures import StartupError
from moorage_server.onnx import Model, load, look
from moorage_server.settings import Source

from .conftest import Server, Start, fp32

FEATURES = 8
WEIGHTS = np.random.default_rng(0).random((FEATURES, 3), np.float32)

Tensor = tuple[str, int, list[int | str | None]]


def saved(
    folder: Path,
    nodes: list[Any],
    inputs: list[Tensor],
    outputs: list[Tensor],
    constants: dict[str, Any] | None = None,
    description: str = "",
    **more: Any,
) -> Path:
    """A folder with model.onnx."""
    folder.mkdir(parents=True, exist_ok=True)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*tensor) for tensor in inputs],
        [helper.make_tensor_value_info(*tensor) for tensor in outputs],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, folder / "model.onnx", **more)
    if description:
        (folder / "moorage.yaml").write_text(description)
    return folder


def classifier(folder: Path, batch: str | int | None = "N", out: str | int | None = "N", **more: Any) -> Path:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Softmax", ["h"], ["probabilities"], axis=-1),
        helper.make_node("ArgMax", ["h"], ["label"], axis=-1, keepdims=0),
    ]
    outputs: list[Tensor] = [("probabilities", TensorProto.FLOAT, [out, 3]), ("label", TensorProto.INT64, [out])]
    return saved(folder, nodes, [("x", TensorProto.FLOAT, [batch, FEATURES])], outputs, {"w": WEIGHTS}, **more)


def loaded(path: Path, device: str = "Auto", **more: str) -> Model:
    return load(Source(path, "m", format="ONNX", **more), device, 64)


def refusal(path: Path, device: str = "Auto", **more: str) -> StartupError:
    with pytest.raises(StartupError) as refused:
        loaded(path, device, **more)
    return refused.value


def expected(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    hidden = np.exp(x @ WEIGHTS)
    result: np.ndarray[Any, Any] = hidden / hidden.sum(-1, keepdims=True)
    return result


def test_its_signature_and_its_numbers_are_its_own(tmp_path: Path) -> None:
    model = loaded(classifier(tmp_path))
    assert [str(spec) for spec in model.signature.inputs] == [f"'x' FP32 [-1, {FEATURES}]"]
    assert [str(spec) for spec in model.signature.outputs] == ["'probabilities' FP32 [-1, 3]", "'label' INT64 [-1]"]
    assert model.signature.batch is not None and model.device == "cpu"
    assert list(model.batch_seconds) == [1, 2, 4, 8, 16, 32, 64]
    x = np.random.default_rng(1).random((5, FEATURES), np.float32)
    probabilities, label = model.run([x])
    np.testing.assert_allclose(probabilities, expected(x), rtol=1e-5)
    np.testing.assert_array_equal(label, expected(x).argmax(-1))
    assert look(Source(tmp_path, "m", format="ONNX")) == model.bytes == (tmp_path / "model.onnx").stat().st_size


@pytest.mark.parametrize(("batch", "out"), [(None, None), ("N", "Softmaxprobabilities_dim_0"), (None, "batch_size")])
def test_what_outputs_call_the_batch_does_not_matter(tmp_path: Path, batch: str | None, out: str | None) -> None:
    assert loaded(classifier(tmp_path, batch, out)).signature.batch is not None


def test_a_fixed_first_dimension_is_no_batch(tmp_path: Path) -> None:
    model = loaded(classifier(tmp_path, 4, 4))
    assert model.signature.batch is None
    assert model.run([np.zeros((4, FEATURES), np.float32)])[0].shape == (4, 3)


def test_what_does_not_go_by_rows_is_not_put_together(tmp_path: Path) -> None:
    """A sum over all rows: its first dimension is free and is not theirs."""
    node = helper.make_node("Unique", ["x"], ["y"], axis=0)
    folder = saved(tmp_path, [node], [("x", TensorProto.FLOAT, ["N", 2])], [("y", TensorProto.FLOAT, ["M", 2])])
    assert loaded(folder).signature.batch is None


def test_time_is_no_batch_whatever_it_is_called(tmp_path: Path) -> None:
    node = helper.make_node("CumSum", ["x", "axis"], ["y"])
    tensors: list[Tensor] = [(name, TensorProto.FLOAT, ["N", 2]) for name in "xy"]
    folder = saved(tmp_path, [node], tensors[:1], tensors[1:], {"axis": np.array(0, np.int64)})
    model = loaded(folder)
    assert model.signature.batch is None
    assert model.run([np.ones((3, 2), np.float32)])[0][:, 0].tolist() == [1, 2, 3]


def test_texts(tmp_path: Path) -> None:
    node = helper.make_node("StringConcat", ["a", "b"], ["both"])
    tensors: list[Tensor] = [(name, TensorProto.STRING, ["N"]) for name in ("a", "b")]
    model = loaded(saved(tmp_path, [node], tensors, [("both", TensorProto.STRING, ["N"])]))
    given = [np.array([one, b"2"], object) for one in ("grün".encode(), b"1")]
    assert model.run(given)[0].tolist() == ["grün1".encode(), b"22"]
    given[0][0] = b"\xff"
    assert model.run(given)[0].tolist() == ["\ufffd1".encode(), b"22"]


def test_it_is_described_and_preprocessed_as_others_are(tmp_path: Path) -> None:
    only_label = "outputs: [{name: label, datatype: INT64, shape: [-1]}]"
    model = loaded(classifier(tmp_path / "few", description=only_label))
    assert [spec.name for spec in model.signature.outputs] == ["label"]
    assert len(model.run([np.zeros((2, FEATURES), np.float32)])) == 1
    wrong = "outputs: [{name: labels, datatype: INT64, shape: [-1]}]"
    assert "write the program's names" in refusal(classifier(tmp_path / "wrong", description=wrong)).message
    shape = f"inputs: [{{name: x, datatype: FP32, shape: [-1, {FEATURES + 1}]}}]"
    assert refusal(classifier(tmp_path / "shape", description=shape)).reason == "FormatMismatch"
    sound = "preprocess: {x: {type: audio, sampleRate: 8000}}"
    assert "preprocess.x" in refusal(classifier(tmp_path / "sound", description=sound)).message


def test_weights_in_a_file_beside_it(tmp_path: Path) -> None:
    beside = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}
    folder = classifier(tmp_path / "model", **beside)
    assert (folder / "weights.bin").is_file()
    x = np.ones((2, FEATURES), np.float32)
    model = loaded(folder)
    np.testing.assert_allclose(model.run([x])[0], expected(x), rtol=1e-5)
    assert model.bytes >= WEIGHTS.nbytes + (folder / "model.onnx").stat().st_size


@pytest.mark.parametrize("location", ["../secret.bin", "ABSOLUTE"])
def test_files_outside_its_folder_are_not_read(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret.bin").write_bytes(WEIGHTS.tobytes())
    folder = classifier(tmp_path / "model", save_as_external_data=True, location="w.bin", size_threshold=0)
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = str(tmp_path / "secret.bin") if location == "ABSOLUTE" else location
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    refused = refusal(folder)
    assert refused.reason in ("FormatMismatch", "LoadFailed"), refused.message


def test_what_is_wrong_is_told(tmp_path: Path) -> None:
    folder = classifier(tmp_path / "fine")
    content = (folder / "model.onnx").read_bytes()
    assert refusal(tmp_path / "nothing").reason == "ModelNotFound"
    (tmp_path / "empty").mkdir()
    assert refusal(tmp_path / "empty").message.endswith("holds no model.onnx; it holds nothing")
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/model.pt2").write_bytes(b"PK")
    assert "set the format to TorchExport" in refusal(tmp_path / "torch").message
    (tmp_path / "cut.onnx").write_bytes(content[: len(content) // 2])
    assert refusal(tmp_path / "cut.onnx").reason == "ModelCorrupt"
    refused = refusal(tmp_path / "cut.onnx", sha256=hashlib.sha256(content).hexdigest())
    assert refused.reason == "DigestMismatch"
    assert loaded(folder / "model.onnx", sha256=hashlib.sha256(content).hexdigest()).signature.batch
    refused = refusal(folder, "CUDA")
    assert refused.reason == "DeviceUnavailable" and "onnxruntime-gpu" in refused.message


def test_a_gpu_that_is_built_for_and_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider"])
    folder = classifier(tmp_path)
    assert refusal(folder, "CUDA").reason == "DeviceUnavailable"
    assert loaded(folder, "Auto").device == "cpu"


def test_what_onnxruntime_cannot_run_is_told(tmp_path: Path) -> None:
    x: Tensor = ("x", TensorProto.FLOAT, ["N", 2])
    own = helper.make_node("Mine", ["x"], ["y"], domain="org.example")
    refused = refusal(saved(tmp_path / "own", [own], [x], [("y", TensorProto.FLOAT, ["N", 2])]))
    assert refused.reason == "FormatMismatch" and "Mine" in refused.message
    brain = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.BFLOAT16)
    refused = refusal(saved(tmp_path / "brain", [brain], [x], [("y", TensorProto.BFLOAT16, ["N", 2])]))
    assert refused.reason == "FormatMismatch" and "it must be a tensor of" in refused.message


@pytest.fixture(scope="module")
def served(start_server: Start, tmp_path_factory: pytest.TempPathFactory) -> Server:
    return start_server(classifier(tmp_path_factory.mktemp("onnx")), MOORAGE_MODEL_FORMAT="ONNX")


def test_it_is_served_without_torch(served: Server) -> None:
    model = f"{served.url}/v2/models/digits"
    assert httpx.get(model).json()["platform"] == "onnxruntime_onnx"
    x = [[0.5] * FEATURES, [0.25] * FEATURES]
    answer = httpx.post(f"{model}/infer", json={"inputs": [fp32(x)]}).json()
    given = {output["name"]: output["data"] for output in answer["outputs"]}
    np.testing.assert_allclose(np.reshape(given["probabilities"], (2, 3)), expected(np.float32(x)), rtol=1e-5)
    assert "libtorch" not in Path(f"/proc/{served.process.pid}/maps").read_text()
    refused = httpx.post(f"{model}/infer", json={"inputs": [fp32([[0.5] * 3])]})
    assert refused.status_code == 400 and f"[-1, {FEATURES}]" in refused.json()["error"]
