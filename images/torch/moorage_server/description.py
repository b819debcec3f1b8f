"""Reads `moorage.yaml`, the optional description beside a model, and fits it to what the program itself says.

The program knows best: tensors are told apart by its own names, in whatever order the file has them. Only outputs that
have no names of their own (of a tuple) are called what the file calls them, by place. What the two disagree on is an
error of the model's, said at load time rather than with every request. Triton's model (assets/triton_model.py of the
operator) holds the same rules.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from .failures import StartupError
from .signature import ARRAYS, BYTES, Dim, Signature, TensorSpec

FILE = "moorage.yaml"


@dataclass(frozen=True)
class Description:
    format: str | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocess: dict[str, Any] = field(default_factory=dict)
    module: str = ""
    """MODULE:NAME of what makes the torch.nn.Module, out of the arguments."""
    arguments: dict[str, Any] = field(default_factory=dict)


def read(folder: Path, wanted: str) -> Description | None:
    """The description in a model's folder, which must not be of another format than `wanted`; None where there is
    none."""
    file = folder / FILE
    if not file.is_file():
        return None
    try:
        content = yaml.safe_load(file.read_bytes())
    except (yaml.YAMLError, ValueError) as error:  # the latter of a date that is none
        raise _mismatch(f"is not YAML: {error}") from None
    if not isinstance(content, dict):
        raise _mismatch("must be a mapping with the keys format, inputs and outputs")
    if content.get("format") not in (None, wanted):
        raise _mismatch(f"says format {content['format']}, the server was told {wanted}")
    preprocess = content.get("preprocess") or {}
    if not isinstance(preprocess, dict):
        raise _mismatch("preprocess must be a mapping by the model's inputs")
    module = ""
    arguments: dict[str, Any] = {}
    if wanted == "Safetensors":
        module, arguments = content.get("module") or "", content.get("arguments") or {}
        if not (
            isinstance(module, str) and isinstance(arguments, dict) and all(isinstance(key, str) for key in arguments)
        ):
            raise _mismatch("module must be a text and arguments a mapping by their names")
    inputs, outputs = _tensors(content, "inputs"), _tensors(content, "outputs")
    return Description(content.get("format"), inputs, outputs, preprocess, module, arguments)


def fit_inputs(described: tuple[TensorSpec, ...], program: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """The program's inputs, in its order, with the narrower shapes of the description."""
    if not described:
        return program
    order = places(described, [spec.name for spec in program])
    return tuple(_narrow(described[i], theirs, "inputs") for i, theirs in zip(order, program, strict=True))


def places(described: tuple[TensorSpec, ...], takes: list[str]) -> list[int]:
    """Where each input that the program takes stands in the description."""
    names = [spec.name for spec in described]
    if sorted(names) != sorted(takes):
        raise _other_names("inputs", names, takes)
    return [names.index(name) for name in takes]


def fit_outputs(
    described: tuple[TensorSpec, ...], program: tuple[TensorSpec, ...], named: bool
) -> tuple[TensorSpec, ...]:
    """The outputs that are described. `named`: the program names them itself, in a dict; some may be left out."""
    if not described:
        return program
    known = {spec.name: spec for spec in program}
    if all(spec.name in known for spec in described):
        return tuple(_narrow(spec, known[spec.name], "outputs") for spec in described)
    if named:
        raise _other_names("outputs", [spec.name for spec in described], list(known))
    if len(described) != len(program):
        raise _mismatch(f"lists {len(described)} outputs, the model has {len(program)}: {_listing(program)}")
    return tuple(_narrow(mine, theirs, "outputs") for mine, theirs in zip(described, program, strict=True))


def signature_of(description: Description) -> Signature:
    """The description taken at its word, for a program that says nothing of its own."""
    if not description.inputs or not description.outputs:
        raise _mismatch("must list inputs and outputs: the model itself does not say what it takes")
    return Signature(description.inputs, description.outputs)


def no_texts(description: Description) -> None:
    """Raises StartupError where a model of torch is said to have tensors that torch has not."""
    if any(spec.datatype == BYTES for spec in (*description.inputs, *description.outputs)):
        raise _mismatch(f"has tensors of {BYTES}, which torch has not: those are for format Python")


def _narrow(described: TensorSpec, program: TensorSpec, kind: str) -> TensorSpec:
    fits = len(described.dims) == len(program.dims) and all(
        theirs.size == mine.size or (theirs.dynamic and theirs.low <= mine.size <= theirs.high)
        for mine, theirs in zip(described.dims, program.dims, strict=True)
    )
    if not fits or described.datatype != program.datatype:
        raise _mismatch(f"says of {kind} {described}, the model itself {program}")
    dims = tuple(t if m.dynamic else m for m, t in zip(described.dims, program.dims, strict=True))
    return replace(described, dims=dims)


def _tensors(content: dict[str, Any], kind: str) -> tuple[TensorSpec, ...]:
    entries = content.get(kind) or []
    if not isinstance(entries, list):
        raise _mismatch(f"{kind} must be a list of {{name, datatype, shape}}")
    tensors = tuple(_tensor(entry, f"{kind}[{i}]") for i, entry in enumerate(entries))
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise _mismatch(f"{kind} must have names that differ: {_listing(tensors)}")
    return tensors


def _tensor(entry: Any, where: str) -> TensorSpec:
    if not isinstance(entry, dict) or not entry.keys() >= {"name", "datatype", "shape"}:
        raise _mismatch(f"{where} must have name, datatype and shape")
    name, datatype, shape = entry["name"], entry["datatype"], entry["shape"]
    if not isinstance(name, str) or not name:
        raise _mismatch(f"{where}.name must be a string")
    if datatype not in ARRAYS:
        raise _mismatch(f"{where}.datatype is {datatype!r}; it may be {', '.join(ARRAYS)}")
    if not isinstance(shape, list) or not all(type(size) is int and (size > 0 or size == -1) for size in shape):
        raise _mismatch(f"{where}.shape must be a list of positive sizes, -1 for a dynamic one")
    # Batch first: the leading -1 is the same dimension in every tensor. Others are nobody's business but their own.
    dims = tuple(Dim(s, "batch" if s < 0 and i == 0 else "") for i, s in enumerate(shape))
    return TensorSpec(name, datatype, dims, _padding(entry, where))


def _padding(entry: dict[str, Any], where: str) -> float | None:
    padding: float | None = entry.get("padding")
    if padding is None:
        return None
    kinds = {BYTES: (), "BOOL": (bool,)}.get(entry["datatype"], (int, float))
    if type(padding) not in kinds or not where.startswith("inputs"):
        raise _mismatch(f"{where}.padding is {padding!r}; it must be a number, of an input of numbers (BOOL: false)")
    if -1 not in entry["shape"][1:] or entry["shape"][:1] != [-1]:
        raise _mismatch(f"{where} has padding, and its shape has no free size behind a free first one")
    kind = ARRAYS[entry["datatype"]]
    bounds = np.iinfo(kind) if kind.kind in "iu" else np.finfo(np.float64 if kind.kind == "b" else kind)
    if (kind.kind in "iu" and type(padding) is float) or not bounds.min <= padding <= bounds.max:
        raise _mismatch(f"{where}.padding is {padding!r}, which is no {entry['datatype']}")
    return padding


def _other_names(kind: str, described: list[str], program: list[str]) -> StartupError:
    return _mismatch(f"names the {kind} {described}, the program has {program}: write the program's names")


def _listing(tensors: tuple[TensorSpec, ...]) -> str:
    return ", ".join(str(tensor) for tensor in tensors)


def _mismatch(what: str) -> StartupError:
    return StartupError("FormatMismatch", f"{FILE} {what}")
