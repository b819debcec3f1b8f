"""An exported program straight out of its archive: its operators, weights, names and shapes.

torch's own reader brings a tracer and computer algebra with it (`torch._dynamo`, sympy): 1,400 modules, which take
longer to import than torch itself. Nearly every model is a list of operators on tensors and sizes, and to read that
takes neither. Whatever is more (control flow, numbers computed from tensors, sizes that are sums) is `Other`, for torch
to read.

The layout is that of torch/_export/serde/schema.py, in the version that `model_check` has seen to; it has also looked
at every operator and name that stands here.
"""

import io
import json
import math
import operator
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from .model import DATATYPES, leaves
from .program import Program, flat_of
from .signature import Dim, Signature, TensorSpec

_SYMBOL = re.compile(r"Symbol\('(\w+)'[^()]*\)")
_DTYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16, 7: torch.float32,
    8: torch.float64, 12: torch.bool, 13: torch.bfloat16, 28: torch.uint16, 34: torch.uint32, 35: torch.uint64,
}  # fmt: skip
_MEMORY_FORMATS = {
    1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d, 4: torch.preserve_format,
}  # fmt: skip
_STRIDED = 7
_POSITIONAL = 1
_PLAIN = {"as_int", "as_bool", "as_string", "as_ints", "as_bools", "as_strings"}
_SIZES = {"as_sym_int", "as_sym_float", "as_sym_bool"}
_LISTS_OF_SIZES = {f"{kind}s" for kind in _SIZES}


class Other(Exception):
    """It is more than what is read here."""


def read(file: Path) -> Program:
    """For the processor. Raises Other, and what torch raises of a file that is damaged."""
    reader = torch._C.PyTorchFileReader(str(file))
    records = frozenset(reader.get_all_records())
    if "byteorder" in records and reader.get_record("byteorder") != b"little":
        raise Other("byte order")
    program = json.loads(reader.get_record("models/model.json"))
    return _Reader(reader, records, program).program()


class _Reader:
    def __init__(self, reader: Any, records: frozenset[str], program: dict[str, Any]) -> None:
        self._reader, self._records, self._bounds = reader, records, program["range_constraints"]
        module = program["graph_module"]
        self._signature, self._graph = module["signature"], module["graph"]
        self._calls = module["module_call_graph"][0]["signature"]
        self._made, self._nodes = fx.Graph(), {}  # type: tuple[fx.Graph, dict[str, fx.Node]]

    def program(self) -> Program:
        weights, taken = self._weights(), []
        specs = [_only(spec) for spec in self._signature["input_specs"]]
        tensors = []
        for kind, spec in specs:
            if kind != "user_input":
                tensors.append(_weight(kind, spec, weights))
                self._nodes[spec["arg"]["name"]] = self._made.placeholder(f"weight_{len(tensors)}")
        for kind, spec in specs:
            if kind == "user_input":
                taken.append(_name(spec["arg"]))
                self._nodes[taken[-1]] = self._made.placeholder(f"input_{len(taken)}")
        for node in self._graph["nodes"]:
            self._call(node)
        given = []
        for kind, spec in map(_only, self._signature["output_specs"]):
            if kind != "user_output":
                raise Other(kind)
            given.append(_name(spec["arg"]))
        self._made.output(tuple(self._nodes[name] for name in given))
        spec = pytree.treespec_loads(self._calls["out_spec"])
        named = leaves(pytree.tree_unflatten(given, spec))
        signature = Signature(
            tuple(self._spec(name, name) for name in taken),
            tuple(self._spec(name, node) for name, node in named),
        )
        return Program(flat_of(self._made, tensors), signature, spec, self._examples())

    # Weights.

    def _weights(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        storages: dict[str, Tensor] = {}
        for folder in ("weights", "constants"):
            config = f"data/{folder}/model_{folder}_config.json"
            if config not in self._records or f"data/{folder}/model.pt" in self._records:
                raise Other("weights of an older layout")
            for name, payload in json.loads(self._reader.get_record(config))["config"].items():
                meta = payload["tensor_meta"]
                if payload["use_pickle"] or meta is None or meta["layout"] != _STRIDED:
                    raise Other("a weight that is no plain tensor")
                dtype, record = _dtype(meta["dtype"]), f"data/{folder}/{payload['path_name']}"
                if record not in storages:
                    storages[record] = self._storage(record, dtype)
                sizes, strides = map(_ints, (meta["sizes"], meta["strides"]))
                found[name] = storages[record].as_strided(sizes, strides, meta["storage_offset"]["as_int"])
        return found

    def _storage(self, record: str, dtype: torch.dtype) -> Tensor:
        if not self._reader.get_record_size(record):
            return torch.empty(0, dtype=dtype)
        count, rest = divmod(self._reader.get_record_size(record), dtype.itemsize)
        if rest:
            raise Other("a weight with half a number")
        raw = self._reader.get_storage_from_record(record, count, dtype)
        return torch.empty(0, dtype=dtype).set_(raw.untyped_storage(), 0, (count,), (1,))

    def _examples(self) -> list[Any]:
        """The inputs that it was exported with."""
        record = "data/sample_inputs/model.pt"
        if record not in self._records or not (content := self._reader.get_record(record)):
            return []
        return pytree.tree_leaves(torch.load(io.BytesIO(content), weights_only=True))

    # Operators.

    def _call(self, node: dict[str, Any]) -> None:
        target, outputs = _operator(node["target"]), [_only(output) for output in node["outputs"]]
        single = True
        if isinstance(target, torch._ops.OpOverload):
            args, kwargs = self._arguments(target, node["inputs"])
            returns = target._schema.returns
            single = len(returns) == 1 and isinstance(returns[0].type, torch.TensorType)
            if len(returns) == 1 and isinstance(returns[0].type, torch.OptionalType):
                raise Other("a tensor that may be none")
            if target is torch.ops.aten.sym_size.int:
                if len(args) != 2:
                    raise Other("a size by name")
                # The same, at a tenth of the cost; and it can be traced.
                made, single = self._made.call_method("size", args), True
            else:
                made = self._made.call_function(target, args, kwargs)
        else:
            made = self._made.call_function(target, tuple(self._value(one["arg"]) for one in node["inputs"]))
        if single and len(outputs) == 1:
            kind, value = outputs[0]
            self._nodes[value["as_name"] if kind in _SIZES else _name({kind: value})] = made
            return
        if len(outputs) == 1 and outputs[0][0] == "as_tensors":
            outputs = [("as_tensor", value) for value in outputs[0][1]]
        for i, (kind, value) in enumerate(outputs):
            if kind != "as_none":
                self._nodes[_name({kind: value})] = self._made.call_function(operator.getitem, (made, i))

    def _arguments(self, target: Any, inputs: list[dict[str, Any]]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        given = {one["name"]: (one.get("kind"), self._value(one["arg"])) for one in inputs}
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for argument in target._schema.arguments:
            if argument.name not in given:
                continue
            kind, value = given.pop(argument.name)
            if kind == _POSITIONAL:
                if kwargs:
                    raise Other("an argument by place behind one by name")
                args.append(value)
            else:
                kwargs[argument.name] = value
        if given:
            raise Other(f"{target} takes no {', '.join(given)}")
        return tuple(args), kwargs

    def _value(self, argument: Mapping[str, Any]) -> Any:
        kind, value = _only(argument)
        if kind in _PLAIN:
            return value
        if kind == "as_float":
            return float(value)  # JSON has no infinity: they are texts
        if kind == "as_floats":
            return [float(one) for one in value]
        if kind == "as_none":
            return None
        if kind == "as_tensor":
            return self._nodes[value["name"]]
        if kind == "as_tensors":
            return [self._nodes[one["name"]] for one in value]
        if kind == "as_optional_tensors":
            return [self._value(one) for one in value]
        if kind in _SIZES:
            return self._size(value)
        if kind in _LISTS_OF_SIZES:
            return [self._size(one) for one in value]
        if kind == "as_scalar_type":
            return _dtype(value)
        if kind == "as_memory_format":
            return _MEMORY_FORMATS[value]
        if kind == "as_layout" and value == _STRIDED:
            return torch.strided
        if kind == "as_device" and value["type"] == "cpu":
            return torch.device("cpu")
        raise Other(kind)

    def _size(self, value: Mapping[str, Any]) -> Any:
        kind, size = _only(value)
        if kind == "as_name":
            return self._nodes[size]
        return float(size) if kind == "as_float" else size

    # Names and shapes.

    def _spec(self, name: str, node: str) -> TensorSpec:
        meta = self._graph["tensor_values"][node]
        dtype = _dtype(meta["dtype"])
        if dtype not in DATATYPES:
            raise Other(str(dtype))
        return TensorSpec(name, DATATYPES[dtype], tuple(map(self._dim, meta["sizes"])))

    def _dim(self, size: Mapping[str, Any]) -> Dim:
        kind, value = _only(size)
        if kind == "as_int":
            return Dim(value)
        symbol = _SYMBOL.fullmatch(value["expr_str"])
        if symbol is None:
            raise Other("a size that is computed from others")
        bounds = self._bounds.get(symbol[1]) or {}
        low, high = bounds.get("min_val"), bounds.get("max_val")
        return Dim(-1, symbol[1], max(1, 1 if low is None else low), math.inf if high is None else high)


def _only(union: Mapping[str, Any]) -> tuple[str, Any]:
    ((kind, value),) = union.items()
    return kind, value


def _name(argument: Mapping[str, Any]) -> str:
    kind, value = _only(argument)
    if kind != "as_tensor":
        raise Other(kind)
    return str(value["name"])


def _weight(kind: str, spec: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Tensor:
    field = {"parameter": "parameter_name", "buffer": "buffer_name", "tensor_constant": "tensor_constant_name"}.get(
        kind
    )
    if field is None:
        raise Other(kind)
    return weights[spec[field]]


def _ints(sizes: list[Mapping[str, Any]]) -> list[int]:
    return [size["as_int"] for size in sizes]


def _dtype(number: int) -> torch.dtype:
    if number not in _DTYPES:
        raise Other(f"datatype {number}")
    return _DTYPES[number]


def _operator(target: str) -> Any:
    """`model_check` has seen that it is one that computes."""
    found: Any = {"_operator": operator, "math": math, "torch": torch}[target.partition(".")[0]]
    if target.startswith("torch.ops.higher_order"):
        raise Other(target)
    for name in target.split(".")[1:]:
        found = getattr(found, name)
    if target.startswith("torch.ops.") and not isinstance(found, torch._ops.OpOverload):
        raise Other(target)
    return found
