"""Training and export in one process: regression, labels that are words, a linear model, both formats."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from moorage_trainer.recipe import export
from moorage_trainer.recipe.config import Recipe, parse
from moorage_trainer.recipe.dataset import Table, load
from moorage_trainer.recipe.train import Result, Training, Worker


def config(**changes: Any) -> Recipe:
    return parse(json.dumps({"task": "Classification", "target": "y", "epochs": 5, "batchSize": 32, **changes}))


def train(recipe: Recipe, path: Path) -> tuple[Table, Result]:
    table = load(path, recipe)
    return table, Training(recipe, table, Worker(0, 1, torch.device("cpu"))).run()


@pytest.fixture
def line(tmp_path: Path) -> Path:
    """Far from zero and of different size, so that only a standardised model learns it; one column says nothing."""
    random = np.random.default_rng(1)
    x = random.normal(size=(400, 3)) * [1e-3, 1, 1e3] + [5, -70, 1e4]
    x[:, 1] = 4.0
    y = 1e6 + 2e5 * (x[:, 0] - 5) / 1e-3 - 3e5 * (x[:, 2] - 1e4) / 1e3
    np.savez(tmp_path / "line.npz", x=x, y=y)
    return tmp_path / "line.npz"


def test_regression_in_the_units_of_the_data(line: Path) -> None:
    recipe = config(task="Regression", model={"type": "Linear"}, epochs=40, learningRate="0.05")
    table, result = train(recipe, line)
    assert result.metrics["r2"] > 0.99
    predicted = result.model(torch.from_numpy(table.x))
    assert predicted.shape == (400, 1)
    spread = float(np.std(table.y))
    assert float((predicted.detach() - torch.from_numpy(table.y)).abs().mean()) < 0.1 * spread
    assert {"mse", "rmse", "mae", "r2", "trainLoss"} == set(result.metrics)


@pytest.mark.parametrize("form", ["TorchExport", "TorchScript"])
def test_words_for_labels_and_both_formats(tmp_path: Path, blobs: Path, form: str) -> None:
    with np.load(blobs) as arrays:
        words = np.array(["red", "green", "blue"])[arrays["y"]]
        np.savez(tmp_path / "words.npz", x=arrays["x"], y=words)
    table, result = train(config(), tmp_path / "words.npz")
    out = tmp_path / "out"
    out.mkdir()
    x = torch.from_numpy(table.x)
    export.save(result.model, x[:16], out, form=form, classes=table.classes, metrics=result.metrics)
    description = yaml.safe_load((out / "moorage.yaml").read_text())
    assert (description["format"], description["classes"]) == (form, ["blue", "green", "red"])
    if form == "TorchExport":
        model: Any = torch.export.load(out / "model.pt2").module()
    else:
        model = torch.jit.load(str(out / "model.pt"))  # type: ignore[no-untyped-call]
    _, label = model(x)
    right = [description["classes"][index] == word for index, word in zip(label.tolist(), words, strict=True)]
    assert np.mean(right) > 0.95


def test_integer_classes_are_answered_as_they_are(tmp_path: Path, blobs: Path) -> None:
    with np.load(blobs) as arrays:
        np.savez(tmp_path / "far.npz", x=arrays["x"], y=arrays["y"] * 100 - 7)
    table, result = train(config(), tmp_path / "far.npz")
    _, label = result.model(torch.from_numpy(table.x))
    assert set(label.tolist()) == {-7, 93, 193}


def test_the_same_seed_gives_the_same_model(blobs: Path) -> None:
    results = [train(config(seed=seed, model={"dropout": "0.2"}), blobs)[1].metrics for seed in (3, 3, 4)]
    assert results[0] == results[1] != results[2]


@pytest.mark.parametrize("rows", [32, 33, 2])
def test_the_workers_shares_make_the_same_step_as_the_whole(blobs: Path, rows: int) -> None:
    """Whatever the number of workers, and also where their shares differ in size or one of them has nothing."""
    recipe = config(weightDecay="0", learningRate="1")
    table, part = load(blobs, recipe), torch.arange(rows)

    def gradient(rank: int, world: int) -> torch.Tensor:
        training = Training(recipe, table, Worker(rank, world, torch.device("cpu")))
        # Before a step of plain descent with rate 1 less what is there after it.
        before = torch.nn.utils.parameters_to_vector(training.network.parameters()).detach().clone()
        training._one_step(training.network, torch.optim.SGD(training.network.parameters(), lr=1.0), part)
        return before - torch.nn.utils.parameters_to_vector(training.network.parameters()).detach()

    whole = gradient(0, 1)
    averaged = sum((gradient(rank, 3) for rank in range(3)), torch.zeros_like(whole)) / 3
    assert torch.allclose(whole, averaged, atol=1e-5)
    assert whole.abs().max() > 0


def test_without_validation_only_the_loss_of_training_is_known(blobs: Path) -> None:
    assert set(train(config(validationFraction="0"), blobs)[1].metrics) == {"trainLoss"}


def test_a_batch_larger_than_the_data(blobs: Path) -> None:
    assert train(config(batchSize=100_000, epochs=30), blobs)[1].metrics["accuracy"] > 0.5
