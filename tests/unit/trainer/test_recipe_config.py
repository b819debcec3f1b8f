"""A recipe out of MOORAGE_RECIPE: defaults, and what is said about fields that make no sense."""

import json
from typing import Any

import pytest

from moorage_trainer.recipe.config import BadRecipe, parse

LEAST: dict[str, Any] = {"task": "Classification", "target": "y"}


def test_defaults() -> None:
    recipe = parse(json.dumps(LEAST))
    assert (recipe.hidden_sizes, recipe.dropout, recipe.features) == ((128, 64), 0.0, ())
    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate) == (30, 64, 0.003)
    assert (recipe.weight_decay, recipe.validation_fraction, recipe.seed) == (0.0001, 0.1, 0)


def test_decimals_are_strings_as_the_api_has_them() -> None:
    body = {**LEAST, "learningRate": "0.01", "validationFraction": "0", "model": {"type": "MLP", "dropout": "0.5"}}
    recipe = parse(json.dumps(body))
    assert (recipe.learning_rate, recipe.validation_fraction, recipe.dropout) == (0.01, 0.0, 0.5)


def test_linear_has_no_hidden_layers() -> None:
    assert parse(json.dumps({**LEAST, "model": {"type": "Linear"}})).hidden_sizes == ()


BAD = {
    "task": ({"task": "Clustering"}, "Classification or Regression"),
    "target": ({"target": ""}, "recipe.target"),
    "target among features": ({"features": ["x", "y"]}, "must not hold the target"),
    "epochs": ({"epochs": 0}, "recipe.epochs must be a whole number from 1"),
    "batch": ({"batchSize": "64"}, "recipe.batchSize"),
    "rate": ({"learningRate": "fast"}, "recipe.learningRate must be a number above 0"),
    "no rate": ({"learningRate": "0"}, "above 0"),
    "endless rate": ({"learningRate": "inf"}, "recipe.learningRate"),
    "fraction": ({"validationFraction": "1"}, "from 0 and below 1"),
    "dropout": ({"model": {"dropout": "1.5"}}, "recipe.dropout"),
    "sizes": ({"model": {"hiddenSizes": [0]}}, "hiddenSizes"),
    "kind": ({"model": {"type": "CNN"}}, "MLP or Linear"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_makes_no_sense_is_named(case: str) -> None:
    change, words = BAD[case]
    with pytest.raises(BadRecipe, match=words):
        parse(json.dumps({**LEAST, **change}))


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_no_json(text: str) -> None:
    with pytest.raises(BadRecipe, match="JSON"):
        parse(text)
