"""Model files that would run code of their own: refused, and nothing of them has run."""

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from moorage_server.failures import StartupError
from moorage_server.load import load
from moorage_server.settings import Source
from moorage_store import model_check
from moorage_store.errors import StoreError, Unsafe

from .conftest import ROOT

Records = dict[str, bytes]


class Evil:
    """Makes `file` when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.file}",))


def tampered(model: Path, folder: Path, change: Callable[[Records], None]) -> Path:
    """A copy of an exported model with its records changed; names are without the archive's own folder."""
    with zipfile.ZipFile(model / "model.pt2") as archive:
        records = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    change(records)
    with zipfile.ZipFile(folder / "model.pt2", "w") as archive:
        for name, content in records.items():
            archive.writestr(f"model/{name}", content)
    return folder


def program(change: Callable[[dict[str, Any]], None]) -> Callable[[Records], None]:
    def apply(records: Records) -> None:
        content = json.loads(records["models/model.json"])
        change(content)
        records["models/model.json"] = json.dumps(content).encode()

    return apply


def refusal(folder: Path, **more: str) -> StartupError:
    with pytest.raises(StartupError) as refused:
        load(Source(folder, "m", **more), "CPU")
    return refused.value


def refused_before_triton(folder: Path, form: str) -> tuple[int, str]:
    """How the init container of a Triton pod takes this model."""
    with pytest.raises(StoreError) as refused:
        model_check.check(folder, form)
    return refused.value.code, refused.value.reason


def pickled(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def test_an_untouched_copy_loads(classifier: Path, tmp_path: Path) -> None:
    model = load(Source(tampered(classifier, tmp_path, lambda records: None), "m"), "CPU")
    assert [spec.name for spec in model.signature.outputs] == ["probabilities", "label"]


def evil_samples(marker: Path) -> Callable[[Records], None]:
    def change(records: Records) -> None:
        records["data/sample_inputs/model.pt"] = pickled(((Evil(marker),), {}))

    return change


def evil_weight(marker: Path) -> Callable[[Records], None]:
    def change(records: Records) -> None:
        config = json.loads(records["data/weights/model_weights_config.json"])
        payload = next(iter(config["config"].values()))
        payload["use_pickle"] = True
        records["data/weights/model_weights_config.json"] = json.dumps(config).encode()
        records[f"data/weights/{payload['path_name']}"] = pickled(Evil(marker))

    return change


def evil_old_weights(marker: Path) -> Callable[[Records], None]:
    def change(records: Records) -> None:
        records["data/weights/model.pt"] = pickled({"weight": Evil(marker)})

    return change


def evil_constant(marker: Path) -> Callable[[Records], None]:
    def change(records: Records) -> None:
        payload = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
        records["data/constants/model_constants_config.json"] = json.dumps({"config": {"c": payload}}).encode()
        records["data/constants/opaque_obj_0"] = pickle.dumps(Evil(marker))

    return change


def evil_operator(marker: Path) -> Callable[[Records], None]:
    def change(content: dict[str, Any]) -> None:
        argument = {"name": "", "arg": {"as_string": f"touch {marker}"}, "kind": 1}
        node = content["graph_module"]["graph"]["nodes"][0]
        content["graph_module"]["graph"]["nodes"].insert(
            0, {**node, "target": "torch.os.system", "inputs": [argument], "outputs": [], "name": "evil"}
        )

    return program(change)


def evil_expression(marker: Path) -> Callable[[Records], None]:
    def change(content: dict[str, Any]) -> None:
        sizes = content["graph_module"]["graph"]["tensor_values"]["x"]["sizes"]
        sizes[0]["as_expr"]["expr_str"] = f"__import__('os').system('touch {marker}')"

    return program(change)


def evil_hidden_expression(marker: Path) -> Callable[[Records], None]:
    """The same below a tensor that has the name of a place for free text."""

    def change(content: dict[str, Any]) -> None:
        values = content["graph_module"]["graph"]["tensor_values"]
        values["metadata"] = json.loads(json.dumps(values["x"]))
        values["metadata"]["sizes"][0]["as_expr"]["expr_str"] = f"Symbol('s', f=open('{marker}', 'w'))"

    return program(change)


def evil_argument_of_an_expression(marker: Path) -> Callable[[Records], None]:
    def change(content: dict[str, Any]) -> None:
        sizes = content["graph_module"]["graph"]["tensor_values"]["x"]["sizes"]
        sizes[0]["as_expr"]["expr_str"] = f"""Add("open('{marker}', 'w')", Integer(1))"""

    return program(change)


def evil_name(marker: Path) -> Callable[[Records], None]:
    def change(content: dict[str, Any]) -> None:
        signature = content["graph_module"]["module_call_graph"][0]["signature"]
        signature["forward_arg_names"] = [f"x=open('{marker}', 'w')"]

    return program(change)


def evil_container(marker: Path) -> Callable[[Records], None]:
    def change(content: dict[str, Any]) -> None:
        context = {"default_factory_module": "antigravity", "default_factory_name": "x", "dict_context": []}
        spec = [1, {"type": "collections.defaultdict", "context": context, "children_spec": []}]
        content["graph_module"]["module_call_graph"][0]["signature"]["out_spec"] = json.dumps(spec)

    return program(change)


def compiled_library(_marker: Path) -> Callable[[Records], None]:
    return lambda records: records.update({"data/aotinductor/model/model.so": b"\x7fELF"})


@pytest.mark.parametrize(
    ("evil", "reason", "words"),
    [
        (evil_samples, "UnsafeModel", "pickled object"),
        (evil_weight, "UnsafeModel", "pickled object"),
        (evil_old_weights, "UnsafeModel", "pickled object"),
        (evil_constant, "UnsafeModel", "pickled Python object"),
        (evil_operator, "UnsafeModel", "it calls 'torch.os.system'"),
        (evil_expression, "UnsafeModel", "is not a shape expression"),
        (evil_hidden_expression, "UnsafeModel", "is not a shape expression"),
        (evil_argument_of_an_expression, "UnsafeModel", "is not a shape expression"),
        (evil_name, "UnsafeModel", "is not a name"),
        (evil_container, "FormatMismatch", "takes or gives a collections.defaultdict"),
        (compiled_library, "UnsafeModel", "compiled library"),
    ],
)
def test_a_tampered_export_is_refused(
    classifier: Path, tmp_path: Path, evil: Callable[[Path], Callable[[Records], None]], reason: str, words: str
) -> None:
    marker = tmp_path / "marker"
    folder = tampered(classifier, tmp_path, evil(marker))
    error = refusal(folder)
    assert (error.reason, words in error.message) == (reason, True), error.message
    assert error.exit_code == 65
    assert not marker.exists()
    if words != "pickled object":  # those are refused by torch itself, with weights only, here and in Triton
        assert refused_before_triton(folder, "TorchExport") == (65, reason)


def test_the_init_container_of_triton_refuses_it_too(classifier: Path, tmp_path: Path) -> None:
    folder = tampered(classifier, tmp_path, evil_constant(tmp_path / "marker"))
    said = tmp_path / "termination"
    command = ["triton-repository", "--name=m", f"--model={folder}", "--format=TorchExport", "--config-dir=/none"]
    env = os.environ | {"MOORAGE_TERMINATION_LOG": str(said), "PYTHONPATH": str(ROOT / "images" / "torch")}
    ended = subprocess.run([sys.executable, "-m", "moorage_store", *command], env=env, timeout=120, check=False)
    assert (ended.returncode, json.loads(said.read_text())["reason"]) == (65, "UnsafeModel")
    assert not (tmp_path / "marker").exists()


def test_guards_are_not_run(classifier: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    guards = [f"__import__('os').system('touch {marker}') == 0"]
    folder = tampered(classifier, tmp_path, program(lambda content: content.update(guards_code=guards)))
    load(Source(folder, "m"), "CPU")
    assert not marker.exists()


def test_the_older_format_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.pt2", "w") as archive:
        archive.writestr("version", "8.1")
        archive.writestr("serialized_exported_program.json", "{}")
        archive.writestr("serialized_state_dict.pt", pickled(Evil(tmp_path / "marker")))
    error = refusal(tmp_path)
    assert (error.reason, (tmp_path / "marker").exists()) == ("FormatMismatch", False), error.message


def test_another_schema_is_told_apart(classifier: Path, tmp_path: Path) -> None:
    newer = {"schema_version": {"major": 99, "minor": 0}, "torch_version": "9.9.9"}
    error = refusal(tampered(classifier, tmp_path, program(lambda content: content.update(newer))))
    assert error.reason == "FormatMismatch"
    assert "exported by torch 9.9.9" in error.message and "export it again" in error.message


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_refused_with_the_way_to_convert_it(tmp_path: Path, zipped: bool) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
    error = refusal(tmp_path, format="TorchScript")
    assert error.reason == "UnsafeModel"
    assert "is a pickle (torch.save)" in error.message and "torch.export.save(program" in error.message


class Writer(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        torch.save(x, "/tmp/never")
        return x


@pytest.mark.parametrize("call", [b"torch.save(", b"torch.save (", b"torch. save(", b"torch.save # (a\n  ("])
def test_script_that_writes_files_is_refused(tmp_path: Path, call: bytes) -> None:
    torch.jit.script(Writer()).save(tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(tmp_path / "model.pt", "w") as other:
        for name in plain.namelist():
            other.writestr(name, plain.read(name).replace(b"torch.save(", call))
    entry = "[{name: x, datatype: FP32, shape: [-1, 2]}]"
    (tmp_path / "moorage.yaml").write_text(f"inputs: {entry}\noutputs: {entry.replace('x,', 'y,')}\n")
    error = refusal(tmp_path, format="TorchScript")
    assert error.reason == "UnsafeModel" and "torch.save" in error.message
    assert refused_before_triton(tmp_path, "TorchScript") == (65, "UnsafeModel")


def test_script_that_hides_its_text_is_refused_by_its_graph() -> None:
    with pytest.raises(Unsafe, match=r"torch\.save"):
        model_check.check_loaded_script(torch.jit.script(nn.Sequential(Writer())))


def test_control_flow_and_arithmetic_on_shapes_are_allowed(tmp_path: Path) -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                x = x * 2
            x = torch.cond(x.sum() > 0, lambda a: a + 1, lambda a: a - 1, (x,))
            return torch.cat([x, x])[: x.shape[0] * 2 - x.shape[0]]

    batch = torch.export.Dim("batch", min=2, max=100)
    exported = torch.export.export(Branching(), (torch.randn(4, 2),), dynamic_shapes=({0: batch},))
    torch.export.save(exported, tmp_path / "model.pt2")
    model = load(Source(tmp_path, "m"), "CPU")
    assert model.signature.inputs[0].shape == [-1, 2]
