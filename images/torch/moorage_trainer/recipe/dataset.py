"""The table to learn from, as two arrays. Every way in which a file can be unfit is told in words of its own.

Whole in memory, in each process: this is for tables, not for image archives.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moorage_trainer.recipe import files
from moorage_trainer.recipe.config import Recipe
from moorage_trainer.recipe.files import BadData


@dataclass(frozen=True)
class Table:
    x: NDArray[np.float32]  # (samples, features)
    y: NDArray[np.int64] | NDArray[np.float32]  # (samples,) index into classes, or (samples, targets)
    classes: list[int] | list[str] | None  # what the indexes stand for; None for a regression


def load(path: Path, recipe: Recipe) -> Table:
    features, target = files.read(path, recipe.features, recipe.target)
    if len(target) < 2:
        raise BadData(f"{path.name} has {len(target)} rows: nothing can be learned from it")
    x = _features(features)
    if recipe.task == "Regression":
        return Table(x, _numbers(recipe.target, target), None)
    y, classes = _classes(recipe.target, target)
    return Table(x, y, classes)


def _features(columns: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
    unfit = [f"{name!r} ({values.dtype})" for name, values in columns.items() if values.dtype.kind not in "biuf"]
    if unfit:
        raise BadData(
            f"features must be numbers, and these are not: {', '.join(unfit[:10])}. "
            "Name the numeric columns in recipe.features, or encode these as numbers"
        )
    blocks = []
    for name, values in columns.items():
        block = values.reshape(len(values), -1).astype(np.float32)
        _refuse_gaps(name, values, block)
        blocks.append(block)
    x = np.concatenate(blocks, axis=1)
    if x.shape[1] == 0:
        raise BadData("the features have no columns")
    return np.ascontiguousarray(x)


def _refuse_gaps(name: str, values: NDArray[np.generic], as_float: NDArray[np.float32]) -> None:
    bad = np.argwhere(~np.isfinite(as_float))
    if len(bad):
        row = int(bad[0][0])
        what = values.reshape(len(values), -1)[tuple(bad[0])] if as_float.ndim == 2 else values[row]
        raise BadData(
            f"{name!r} has {len(bad)} values that are missing or not finite, the first in row {row} ({what}): "
            "remove those rows, or fill the gaps"
        )


def _numbers(name: str, values: NDArray[np.generic]) -> NDArray[np.float32]:
    if values.dtype.kind not in "biuf":
        raise BadData(f"the target {name!r} of a Regression must be numbers, not {values.dtype}")
    numbers = values.reshape(len(values), -1).astype(np.float32)
    _refuse_gaps(name, values, numbers)
    return numbers


def _classes(name: str, values: NDArray[np.generic]) -> tuple[NDArray[np.int64], list[int] | list[str]]:
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise BadData(
            f"the target {name!r} of a Classification must be one label a row, and has the shape {list(values.shape)}; "
            "for one-hot labels store y.argmax(axis=1)"
        )
    if values.dtype.kind not in "biuUST":
        raise BadData(
            f"the target {name!r} has labels of type {values.dtype}: labels are integers or strings "
            "(to predict a number, use task Regression)"
        )
    kinds, y = np.unique(values, return_inverse=True)
    if len(kinds) < 2:
        raise BadData(f"the target {name!r} has one class only ({kinds[0]}): there is nothing to tell apart")
    if values.dtype.kind in "biu":
        return y.astype(np.int64), [int(kind) for kind in kinds]
    texts = [kind.decode("utf-8", "replace") if isinstance(kind, bytes) else str(kind) for kind in kinds]
    return y.astype(np.int64), texts
