"""The recipe as the quickstart runs it: two launchers over gloo, real digits; the model knows the held-out ones."""

import base64
import http.client
import json
import os
import re
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from moorage_store.digest import sha256_of
from support import digits

from .conftest import PACKAGES, Workers, output, recipe

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data as the ConfigMap holds it."""
    body = yaml.safe_load((ROOT / "examples" / "quickstart" / "data.yaml").read_text())
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    path.write_bytes(base64.b64decode(body["binaryData"]["digits.npz"]))
    return path


def test_two_workers_learn_the_digits(workers: Workers, tmp_path: Path, quickstart: Path) -> None:
    job = yaml.safe_load((ROOT / "examples" / "quickstart" / "training.yaml").read_text())
    block = job["spec"]["trainer"]["recipe"]
    target = tmp_path / "models" / "digits" / "1"
    workers.start(2, **recipe(quickstart, **block), **output(target))
    seen = watch(workers)
    first, second = workers.wait()
    assert (first.code, second.code) == (0, 0), first.output + second.output

    x, truth = digits.held_out()
    model: Any = torch.export.load(target / "model.pt2").module()
    probabilities, label = model(torch.from_numpy(x))
    assert float((label.numpy() == truth).mean()) >= 0.95
    assert probabilities.sum(dim=1).allclose(torch.ones(360))
    single = model(torch.from_numpy(x[:1]))[1]
    assert single.tolist() == label[:1].tolist()

    assert first.log["reason"] == "Succeeded"
    assert first.log["output"] == {
        "uri": "pvc://models/digits/1",
        "sha256": sha256_of(target),
        "sizeBytes": sum(file.stat().st_size for file in target.iterdir()),
    }
    assert first.log["metrics"]["accuracy"] >= 0.9
    assert sorted(file.name for file in target.iterdir()) == ["model.pt2", "moorage.yaml"]
    description = yaml.safe_load((target / "moorage.yaml").read_text())
    assert description["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 64]}]
    assert [output["name"] for output in description["outputs"]] == ["probabilities", "label"]
    assert description["classes"] == list(range(10))
    assert [path.name for path in target.parent.iterdir()] == ["1"]
    steps = 30 * -(-(1437 - 144) // 64)
    assert seen[-1]["totalSteps"] == steps
    assert [body["step"] for body in seen] == sorted(body["step"] for body in seen)


def watch(workers: Workers) -> list[dict[str, Any]]:
    """Every answer of /progress that says something, until the first worker has ended."""
    seen = []
    url = f"http://127.0.0.1:{workers.status_port}/progress"
    deadline = time.monotonic() + 240
    while workers.processes[0].poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                body = json.load(answer)
        except (OSError, http.client.HTTPException):  # not yet, or no more
            body = {}
        if body.get("step"):
            seen.append(body)
        time.sleep(0.02)
    return seen


def test_a_diverging_training_says_so_and_what_to_try(workers: Workers, tmp_path: Path, blobs: Path) -> None:
    env = {**recipe(blobs, learningRate="1e30"), **output(tmp_path / "models" / "x")}
    (only,) = workers.start(1, PET_NPROC_PER_NODE="2", **env).wait()
    assert (only.code, only.log["reason"]) == (1, "NonFiniteLoss"), only.output
    assert "lower recipe.learningRate (it is 1e+30, try 1e+29)" in only.log["message"]
    assert only.log["step"] > 0
    assert not (tmp_path / "models" / "x").exists()


def test_unfit_data_is_final(workers: Workers, tmp_path: Path, blobs: Path) -> None:
    env = {**recipe(blobs, target="z"), **output(tmp_path / "x")}
    (only,) = workers.start(1, PET_NPROC_PER_NODE="2", **env).wait()
    assert (only.code, only.log["reason"]) == (65, "DataInvalid"), only.output
    assert "has no array z; it has: x, y" in only.log["message"]
    assert "Traceback" not in only.output
    assert re.search(r"^\[[01]\] DataInvalid", only.output, re.MULTILINE)


def test_missing_data_is_said_with_what_is_there(workers: Workers, blobs: Path) -> None:
    env = recipe(blobs) | {
        "MOORAGE_DATA_URI": "configmap://d/absent.npz",
        "MOORAGE_DATA_PATH": str(blobs.parent / "a.npz"),
    }
    (only,) = workers.start(1, **env).wait()
    assert (only.code, only.log["reason"]) == (66, "DataNotFound")
    assert "absent.npz" in only.log["message"]
    assert "blobs.npz" in only.log["message"]


def test_an_output_below_a_file_is_told_before_training(workers: Workers, tmp_path: Path, blobs: Path) -> None:
    (tmp_path / "größe").touch()
    (only,) = workers.start(1, **recipe(blobs), **output(tmp_path / "größe" / "x")).wait()
    assert (only.code, only.log["reason"]) == (78, "OutputNotWritable")
    assert "größe" in only.log["message"]
    assert "epoch" not in only.output


def test_what_the_recipe_did_not_foresee_is_its_own_fault(workers: Workers, blobs: Path) -> None:
    # A torch that is broken: no data and no recipe can make the recipe fail so.
    (blobs.parent / "sitecustomize.py").write_text(
        "import sys\nif '-m' in sys.orig_argv and 'moorage_trainer.recipe' in sys.orig_argv:\n"
        "    import torch\n    torch.optim.AdamW = lambda *a, **k: {}['größe']\n"
    )
    path = f"{blobs.parent}{os.pathsep}{PACKAGES}"
    (only,) = workers.start(1, **recipe(blobs), PYTHONPATH=path).wait()
    assert (only.code, only.log["reason"]) == (1, "InternalError"), only.output
    assert only.log["message"] == "KeyError: 'größe'"


def test_an_output_that_cannot_be_is_refused_before_training(workers: Workers, tmp_path: Path, blobs: Path) -> None:
    target = tmp_path / "models"
    (target / "other").mkdir(parents=True)
    (only,) = workers.start(1, **recipe(blobs), **output(target)).wait()
    assert (only.code, only.log["reason"]) == (78, "OutputNotWritable")
    assert "holds other" in only.log["message"]
    assert "epoch" not in only.output
