"""Packages of AOTInductor: compiled here, with a real compiler, and served."""

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

from moorage_server.compiled import _can
from moorage_server.failures import StartupError
from moorage_server.load import load
from moorage_server.model import Model
from moorage_server.settings import Source
from support import compiled
from support.compiled import CLASSES, DESCRIBED, FEATURES

from .conftest import Start, fp32


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package and moorage.yaml; beside it what the model took and gave before."""
    return compiled.package(tmp_path_factory.mktemp("compiled") / "model")


def loaded(path: Path, form: str = "AOTInductor") -> Model:
    return load(Source(path, "m", format=form), "CPU", 64)


def refusal(path: Path, form: str = "AOTInductor") -> StartupError:
    with pytest.raises(StartupError) as refused:
        loaded(path, form)
    return refused.value


def changed(package: Path, folder: Path, change: Callable[[str, bytes], bytes]) -> Path:
    """The same with other records in its archive."""
    shutil.copytree(package, folder)
    with zipfile.ZipFile(package / "model.pt2") as old, zipfile.ZipFile(folder / "model.pt2", "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return folder


def test_it_gives_what_the_model_gave_before_it_was_compiled(package: Path) -> None:
    x, bias = torch.load(package.parent / "taken.pt")
    given = torch.load(package.parent / "given.pt")
    model = loaded(package)
    assert model.signature.batch is not None
    label, probabilities = model.run([x.numpy(), bias.numpy()])
    np.testing.assert_allclose(probabilities, given["probabilities"].detach().numpy(), rtol=1e-5)
    np.testing.assert_array_equal(label, given["label"].numpy())


def test_its_own_code_checks_what_it_is_given(package: Path, tmp_path: Path) -> None:
    """A description that is wrong must not make it read beyond the end of an array."""
    shutil.copytree(package, tmp_path / "wrong")
    wrong = {**DESCRIBED, "inputs": [{**DESCRIBED["inputs"][0], "shape": [-1, 2]}, DESCRIBED["inputs"][1]]}
    (tmp_path / "wrong/moorage.yaml").write_text(json.dumps(wrong))
    refused = refusal(tmp_path / "wrong")
    assert refused.reason == "LoadFailed" and f"expected: {FEATURES}, but got: 2" in refused.message


def test_what_does_not_fit_is_told(package: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(package / "model.pt2", bare)
    assert "put a moorage.yaml beside model.pt2" in refusal(bare).message
    (bare / "moorage.yaml").write_text(json.dumps({**DESCRIBED, "inputs": DESCRIBED["inputs"][:1]}))
    assert "lists 1 inputs, the program takes 2" in refusal(bare).message
    wrong = [{**DESCRIBED["outputs"][0], "name": "class"}]
    (bare / "moorage.yaml").write_text(json.dumps({**DESCRIBED, "outputs": wrong}))
    assert refusal(bare).reason == "FormatMismatch"
    cut = tmp_path / "model.pt2"
    cut.write_bytes((package / "model.pt2").read_bytes()[:-1000])
    assert refusal(cut).reason == "ModelCorrupt"


def test_code_for_another_processor_is_not_run(package: Path, tmp_path: Path) -> None:
    def elsewhere(name: str, content: bytes) -> bytes:
        return content.replace(b"x86_64", b"riscv9") if name.endswith("_metadata.json") else content

    refused = refusal(changed(package, tmp_path / "other", elsewhere))
    assert refused.reason == "FormatMismatch" and "compiled for cpu riscv9" in refused.message

    def newer(name: str, content: bytes) -> bytes:
        isa = b"AVX512" if b"AVX512" in content else b"AVX2"
        return content.replace(isa, b"AVX1024") if name.endswith("_metadata.json") else content

    refused = refusal(changed(package, tmp_path / "newer", newer))
    assert refused.reason == "FormatMismatch" and "compiled for cpu x86_64 AVX1024" in refused.message


def test_vector_instructions_in_the_words_of_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def can(needs: str, isa: str, vnni: bool) -> bool:
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: isa)
        monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: vnni)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        return _can(needs)

    assert can("", "DEFAULT", False) and can("AVX2", "AVX512", False) and can("AVX512 AVX512_VNNI", "AVX512", True)
    assert not can("AVX512 AVX512_VNNI", "AVX2", False) and not can("AVX512 AVX512_VNNI", "AVX512", False)
    assert not can("AVX512 AVX512_VNNI AMX_TILE", "AVX512", True) and not can("AVX2", "DEFAULT", False)


def test_only_who_names_the_format_runs_compiled_code(package: Path, classifier: Path) -> None:
    refused = refusal(package, "TorchExport")
    assert refused.reason == "UnsafeModel" and "set the format to AOTInductor" in refused.message
    assert "set the format to TorchExport" in refusal(classifier).message


def test_it_is_served(start_server: Start, package: Path) -> None:
    server = start_server(package, MOORAGE_MODEL_FORMAT="AOTInductor")
    inputs = [fp32([[0.5] * FEATURES] * 2), {**fp32([[0.0] * CLASSES] * 2), "name": "bias"}]
    model = f"{server.url}/v2/models/digits"
    answer = httpx.post(f"{model}/infer", json={"inputs": inputs}).json()
    assert [(output["name"], output["shape"]) for output in answer["outputs"]] == [
        ("label", [2]), ("probabilities", [2, CLASSES]),
    ]  # fmt: skip
    assert httpx.get(model).json()["platform"] == "torch_aoti"
    assert server.terminate() == 0
