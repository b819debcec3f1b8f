"""The recipe block, checked again where it is used: the launcher may be run by hand, and decimals come as strings."""

import json
import math
from dataclasses import dataclass
from typing import Any, Literal, cast

Task = Literal["Classification", "Regression"]


class BadRecipe(ValueError):
    """A field of the recipe; the message says which and what to write."""


@dataclass(frozen=True)
class Recipe:
    task: Task
    hidden_sizes: tuple[int, ...]  # none: a linear model
    dropout: float
    features: tuple[str, ...]  # none: everything but the target
    target: str
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    validation_fraction: float
    seed: int


def parse(text: str) -> Recipe:
    try:
        body = json.loads(text)
    except ValueError as error:
        raise BadRecipe(f"MOORAGE_RECIPE is no JSON: {error}") from error
    if not isinstance(body, dict):
        raise BadRecipe("MOORAGE_RECIPE must be a JSON object")
    task = body.get("task")
    if task not in ("Classification", "Regression"):
        raise BadRecipe(f"recipe.task must be Classification or Regression, not {task!r}")
    target = body.get("target")
    if not isinstance(target, str) or not target:
        raise BadRecipe("recipe.target must name the array or column to predict")
    features = body.get("features") or []
    names = [features] if isinstance(features, str) else features
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadRecipe("recipe.features must be a list of names")
    if target in names:
        raise BadRecipe(f"recipe.features must not hold the target {target!r}: the model would just copy it")
    hidden, dropout = _network(body.get("model") or {})
    return Recipe(
        task=cast(Task, task),
        hidden_sizes=hidden,
        dropout=dropout,
        features=tuple(names),
        target=target,
        epochs=_whole(body, "epochs", 30),
        batch_size=_whole(body, "batchSize", 64),
        learning_rate=_decimal(body, "learningRate", 0.003, above=0),
        weight_decay=_decimal(body, "weightDecay", 0.0001, least=0),
        validation_fraction=_decimal(body, "validationFraction", 0.1, least=0, below=1),
        seed=_whole(body, "seed", 0, least=0),
    )


def _network(body: dict[str, Any]) -> tuple[tuple[int, ...], float]:
    kind = body.get("type", "MLP")
    if kind not in ("MLP", "Linear"):
        raise BadRecipe(f"recipe.model.type must be MLP or Linear, not {kind!r}")
    if kind == "Linear":
        return (), 0.0
    sizes = body.get("hiddenSizes") or [128, 64]
    if not isinstance(sizes, list) or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise BadRecipe("recipe.model.hiddenSizes must be a list of whole numbers from 1, such as [128, 64]")
    return tuple(sizes), _decimal(body, "dropout", 0.0, least=0, below=1)


def _whole(body: dict[str, Any], name: str, default: int, least: int = 1) -> int:
    value = body.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise BadRecipe(f"recipe.{name} must be a whole number from {least}, not {value!r}")
    return value


def _decimal(
    body: dict[str, Any],
    name: str,
    default: float,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    below: float = math.inf,
) -> float:
    try:
        value = float(body.get(name, default))
    except (TypeError, ValueError):
        value = math.nan
    if not (least <= value < below and value > above and math.isfinite(value)):
        bounds = [f"from {least:g}"] * (least > -math.inf) + [f"above {above:g}"] * (above > -math.inf)
        bounds += [f"below {below:g}"] * (below < math.inf)
        raise BadRecipe(f"recipe.{name} must be a number {' and '.join(bounds)}, not {body.get(name)!r}")
    return value
