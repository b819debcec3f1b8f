"""Arrays and columns out of .npz, .csv and .parquet files, by name."""

import zipfile
import zlib
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow

Columns = dict[str, NDArray[np.generic]]
ENDINGS = (".npz", ".csv", ".parquet")


class BadData(Exception):
    """The data is there and cannot be learned from."""


class NoData(Exception):
    """There is no such file."""


def read(path: Path, features: tuple[str, ...], target: str) -> tuple[Columns, NDArray[np.generic]]:
    """Features by name and the target. Without names, every other column (of an .npz: the one other array)."""
    found = _files(path)
    try:
        if found[0].suffix == ".npz":
            return _read_npz(found[0], features, target)
        return _read_table(found, features, target)
    except OSError as error:
        raise BadData(f"{path.name} cannot be read: {error}") from error
    except MemoryError as error:
        raise BadData(f"{path.name} does not fit into memory: give the workers more") from error


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise NoData(f"{path} does not exist")
    # A folder of parts is one table, as Spark and others write it.
    inside = sorted(path.rglob("*")) if path.is_dir() else [path]
    found = [file for file in inside if file.suffix in ENDINGS and file.is_file()]
    if not found:
        names = ", ".join(file.name for file in inside[:10]) or "nothing"
        raise BadData(f"no data file: a recipe reads {', '.join(ENDINGS)}, and there is {names}")
    if len({file.suffix for file in found}) > 1 or (len(found) > 1 and found[0].suffix == ".npz"):
        names = ", ".join(str(file.relative_to(path)) for file in found[:10])
        raise BadData(f"{path.name} holds several data files ({names}): give the uri of one of them")
    return found


def _read_npz(path: Path, features: tuple[str, ...], target: str) -> tuple[Columns, NDArray[np.generic]]:
    try:
        # Without pickle: a data file must not be able to run code.
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise BadData(f"{path.name} is a single array (.npy), not an .npz: write it with numpy.savez, by name")
        with loaded as archive:
            names = list(archive.files)
            _require([*features, target], names, "array", path)
            wanted = features or _only_other(names, target, path)
            arrays = {name: archive[name] for name in [*wanted, target]}
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, SyntaxError, TokenError, RuntimeError) as error:
        # numpy reads the head of an array by Python's parser, whose errors it lets through.
        raise BadData(f"{path.name} is no .npz of plain arrays: {error}") from error
    for name, array in arrays.items():
        if array.ndim == 0:
            raise BadData(f"the array {name!r} of {path.name} is a single value, not one a row")
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise BadData(f"the arrays of {path.name} differ in length: {lengths}")
    return {name: arrays[name] for name in wanted}, arrays[target]


def _only_other(names: list[str], target: str, path: Path) -> tuple[str, ...]:
    others = [name for name in names if name != target]
    if len(others) != 1:
        raise BadData(f"{path.name} holds the arrays {', '.join(names)}: name the input in recipe.features")
    return tuple(others)


def _read_table(paths: list[Path], features: tuple[str, ...], target: str) -> tuple[Columns, NDArray[np.generic]]:
    import pyarrow
    from pyarrow import csv, parquet

    try:
        tables = [csv.read_csv(path) if path.suffix == ".csv" else parquet.read_table(path) for path in paths]
        table = pyarrow.concat_tables(tables) if len(tables) > 1 else tables[0]
    except pyarrow.ArrowException as error:
        raise BadData(f"{paths[0].name} cannot be read: {str(error).splitlines()[0]}") from error
    names = table.column_names
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadData(f"{paths[0].name} has several columns with the name {', '.join(twice)}")
    wanted = features or tuple(name for name in names if name != target)
    _require([*wanted, target], names, "column", paths[0])
    if not wanted:
        raise BadData(f"{paths[0].name} has no column but the target")
    return {name: _column(name, table.column(name)) for name in wanted}, _column(target, table.column(target))


def _column(name: str, column: "pyarrow.ChunkedArray") -> NDArray[Any]:
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise BadData(f"{name!r} has {column.null_count} values missing, the first in row {row}: fill or remove them")
    import pyarrow.types as types

    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if types.is_string(column.type) or types.is_large_string(column.type):
        return np.array(column.to_pylist(), dtype=np.str_)
    if types.is_decimal(column.type):
        column = column.cast("double")
    values: NDArray[Any] = column.to_numpy()
    return values


def _require(wanted: list[str], names: list[str], kind: str, path: Path) -> None:
    if missing := [name for name in wanted if name not in names]:
        have = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
        raise BadData(f"{path.name} has no {kind} {', '.join(missing)}; it has: {have}")
