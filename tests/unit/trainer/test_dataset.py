"""What a recipe reads, and what it says about files it cannot learn from."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from moorage_trainer.recipe.config import parse
from moorage_trainer.recipe.dataset import Table, load
from moorage_trainer.recipe.files import BadData, NoData


def read(path: Path, target: str = "y", task: str = "Classification", features: tuple[str, ...] = ()) -> Table:
    import json

    return load(path, parse(json.dumps({"task": task, "target": target, "features": list(features)})))


X = np.arange(12, dtype=np.float64).reshape(4, 3)
Y = np.array([0, 1, 0, 1])


def npz(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "data.npz", **arrays)
    return folder / "data.npz"


def csv(folder: Path, text: str) -> Path:
    (folder / "data.csv").write_text(text)
    return folder / "data.csv"


def test_npz(tmp_path: Path) -> None:
    table = read(npz(tmp_path, x=X, y=Y))
    assert table.x.dtype == np.float32
    assert table.x.tolist() == X.tolist()
    assert (table.y.tolist(), table.classes) == ([0, 1, 0, 1], [0, 1])


def test_pictures_are_laid_flat(tmp_path: Path) -> None:
    assert read(npz(tmp_path, x=np.zeros((4, 8, 8), np.uint8), y=Y)).x.shape == (4, 64)


def test_labels_keep_their_meaning(tmp_path: Path) -> None:
    table = read(npz(tmp_path, x=X, y=np.array([7, -3, 7, 20])))
    assert (table.y.tolist(), table.classes) == ([1, 0, 1, 2], [-3, 7, 20])
    table = read(npz(tmp_path, x=X, y=np.array(["cat", "ant", "cat", "ö"])))
    assert (table.y.tolist(), table.classes) == ([1, 0, 1, 2], ["ant", "cat", "ö"])


def test_regression(tmp_path: Path) -> None:
    table = read(npz(tmp_path, x=X, y=Y * 1.5), task="Regression")
    assert (table.y.tolist(), table.classes) == ([[0.0], [1.5], [0.0], [1.5]], None)
    assert read(npz(tmp_path, x=X, y=X[:, :2]), task="Regression").y.shape == (4, 2)


def test_csv_by_default_takes_every_other_column(tmp_path: Path) -> None:
    path = csv(tmp_path, "a,b,kind\n1,2.5,u\n3,4,v\n5,6,u\n")
    table = read(path, "kind")
    assert table.x.tolist() == [[1, 2.5], [3, 4], [5, 6]]
    assert table.classes == ["u", "v"]
    assert read(path, "a", "Regression", ("b",)).x.tolist() == [[2.5], [4], [6]]


def test_parquet_and_folders_of_parts(tmp_path: Path) -> None:
    folder = tmp_path / "table"
    folder.mkdir()
    for part in range(3):
        columns = {"a": [part, part + 1], "b": [True, False], "kind": ["u", "v"]}
        parquet.write_table(pyarrow.table(columns), folder / f"part-{part}.parquet")
    (folder / "_SUCCESS").touch()
    table = read(folder, "kind")
    assert table.x.tolist() == [[0, 1], [1, 0], [1, 1], [2, 0], [2, 1], [3, 0]]


NAN = X.copy()
NAN[2, 1] = np.nan

BAD: dict[str, tuple[Callable[[Path], Path], dict[str, Any], str]] = {
    "no such array": (lambda f: npz(f, x=X, y=Y), {"target": "z"}, r"no array z; it has: x, y"),
    "which is the input": (lambda f: npz(f, x=X, extra=X, y=Y), {}, "name the input in recipe.features"),
    "only a target": (lambda f: npz(f, y=Y), {}, "name the input"),
    "other lengths": (lambda f: npz(f, x=X, y=Y[:3]), {}, r"differ in length: .*'x': 4.*'y': 3"),
    "a single value": (lambda f: npz(f, x=X, y=np.array(3)), {}, "single value"),
    "NaN": (lambda f: npz(f, x=NAN, y=Y), {}, r"'x' has 1 values .* row 2"),
    "infinity in float32 only": (lambda f: npz(f, x=X * 1e300, y=Y), {}, "not finite"),
    "text": (lambda f: npz(f, x=np.array([["a"]] * 4), y=Y), {}, r"features must be numbers.*'x'"),
    "objects": (lambda f: npz(f, x=np.array([{}] * 4, dtype=object), y=Y), {}, "no .npz of plain arrays"),
    "empty": (lambda f: npz(f, x=X[:0], y=Y[:0]), {}, "0 rows"),
    "no columns": (lambda f: npz(f, x=X[:, :0], y=Y), {}, "no columns"),
    "float labels": (lambda f: npz(f, x=X, y=Y * 1.5), {}, "labels are integers or strings.*Regression"),
    "one-hot": (lambda f: npz(f, x=X, y=np.eye(4)), {}, "argmax"),
    "one class": (lambda f: npz(f, x=X, y=Y * 0), {}, "one class only"),
    "text to predict": (lambda f: npz(f, x=X, y=np.array(list("abcd"))), {"task": "Regression"}, "must be numbers"),
    "target NaN": (lambda f: npz(f, x=X, y=NAN[:, 1]), {"task": "Regression"}, "'y' has 1 values"),
    "npy as npz": (lambda f: _npy(f / "data.npz"), {}, r"single array \(\.npy\).*savez"),
    "broken head": (lambda f: _broken_head(f / "data.npz"), {}, "no .npz of plain arrays"),
    "no zip": (lambda f: _noise(f / "data.npz"), {}, "no .npz"),
    "no such column": (lambda f: csv(f, "a,y\n1,2\n3,4\n"), {"target": "z"}, "no column z; it has: a, y"),
    "text column": (lambda f: csv(f, "a,b,y\n1,red,0\n2,blue,1\n"), {}, r"'b' .*Name the numeric columns"),
    "gap": (lambda f: csv(f, "a,y\n1,0\n,1\n"), {}, "'a' has 1 values missing, the first in row 1"),
    "gap in labels": (lambda f: csv(f, "a,y\n1,0\n2,\n"), {}, "'y' has 1 values missing"),
    "ragged": (lambda f: csv(f, "a,y\n1,0\n1,2,3\n"), {}, "data.csv cannot be read"),
    "no rows": (lambda f: csv(f, "a,y\n"), {}, "rows|numbers"),
    "empty file": (lambda f: csv(f, ""), {}, "data.csv cannot be read"),
    "same name twice": (lambda f: csv(f, "a,a,y\n1,2,3\n"), {}, "several columns"),
    "target alone": (lambda f: csv(f, "y\n1\n2\n"), {}, "no column but the target"),
    "no parquet": (lambda f: _noise(f / "data.parquet"), {}, "data.parquet cannot be read"),
    "unknown ending": (lambda f: _noise(f / "data.xlsx"), {}, r"a recipe reads \.npz, \.csv, \.parquet.*data\.xlsx"),
    "two files": (lambda f: (npz(f, x=X, y=Y), csv(f, "a,y\n1,2\n"), f)[-1], {}, "several data files"),
    "empty folder": (lambda f: f, {}, "nothing"),
}


def _npy(path: Path) -> Path:
    with path.open("wb") as file:
        np.save(file, X)
    return path


def _broken_head(path: Path) -> Path:
    head = b"{'descr': '<f8', 'fortran_order': False, 'shape': (4, 2"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("x.npy", "y.npy"):
            archive.writestr(name, b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head)
    return path


@pytest.mark.parametrize("case", BAD)
def test_unfit_data_is_explained(tmp_path: Path, case: str) -> None:
    make, options, words = BAD[case]
    with pytest.raises(BadData, match=words):
        read(make(tmp_path), **options)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(NoData, match=r"absent\.npz"):
        read(tmp_path / "absent.npz")


def _noise(path: Path) -> Path:
    path.write_bytes(b"\x93\x12noise" * 100)
    return path
