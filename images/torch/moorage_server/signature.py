"""What a model takes and gives: names, datatypes and shapes, as the Open Inference Protocol speaks of them.

Data only. `description` reads one from `moorage.yaml`, `model` from a program, `protocol` checks requests against it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np

BYTES = "BYTES"
Array = np.ndarray[Any, np.dtype[Any]]

# The protocol's datatypes, and the arrays they travel in between the edge and the model (numpy has no bfloat16; an
# array of BYTES is of Python's bytes).
ARRAYS: dict[str, np.dtype[Any]] = {
    name: np.dtype(array)
    for name, array in {
        "BOOL": np.bool_,
        "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
        "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64,
        "FP16": np.float16, "BF16": np.float32, "FP32": np.float32, "FP64": np.float64,
        "BYTES": np.object_,
    }.items()
}  # fmt: skip


@dataclass(frozen=True)
class Dim:
    """One dimension: a fixed size, or -1 with the sizes it may have.

    Dimensions of equal `symbol` must have equal sizes in one request (the batch of two inputs, say).
    """

    size: int
    symbol: str = ""
    low: int = 1
    high: float = math.inf

    @property
    def dynamic(self) -> bool:
        return self.size < 0


@dataclass(frozen=True)
class TensorSpec:
    name: str
    datatype: str
    dims: tuple[Dim, ...]
    padding: float | None = None
    """Of an input: with what rows of different sizes may be filled up to go together; None: they may not."""

    @property
    def shape(self) -> list[int]:
        return [dim.size for dim in self.dims]

    def fits(self, shape: Sequence[int]) -> bool:
        return len(shape) == len(self.dims) and all(
            dim.dynamic or dim.size == size for dim, size in zip(self.dims, shape, strict=True)
        )

    def __str__(self) -> str:
        return f"{self.name!r} {self.datatype} {self.shape}"


@dataclass(frozen=True)
class Signature:
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @cached_property
    def input_names(self) -> frozenset[str]:
        return frozenset(spec.name for spec in self.inputs)

    @cached_property
    def shared(self) -> frozenset[str]:
        """Symbols of input dimensions that must have equal sizes."""
        found = [dim.symbol for tensor in self.inputs for dim in tensor.dims if dim.dynamic and dim.symbol]
        return frozenset(symbol for symbol in found if found.count(symbol) > 1)

    @cached_property
    def batch(self) -> Dim | None:
        """The first dimension, where rows of several requests may go through the model together; else None."""
        tensors = (*self.inputs, *self.outputs)
        firsts = [tensor.dims[0] for tensor in tensors if tensor.dims]
        together = len(firsts) == len(tensors) and all(first.dynamic for first in firsts)
        if not together or len({first.symbol for first in firsts}) != 1:
            return None
        return replace(firsts[0], low=max(f.low for f in firsts), high=min(f.high for f in firsts))

    def zeros(self, rows: int, sizes: Mapping[str, Sequence[int]] = MappingProxyType({})) -> list[Array]:
        """Inputs to try the model with. `sizes`: of an input, where they are known; else the smallest there may be."""
        found = []
        for spec in self.inputs:
            shape = list(sizes.get(spec.name) or [dim.low if dim.dynamic else dim.size for dim in spec.dims])
            if self.batch:
                shape[0] = rows
            found.append(np.full(shape, b"" if spec.datatype == BYTES else 0, ARRAYS[spec.datatype]))
        return found

    def batch_sizes(self, most: int) -> tuple[int, int]:
        """Rows of the smallest and of the largest batch, of at most `most` where the model can do with so few."""
        batch = self.batch
        return (batch.low, max(batch.low, int(min(most, batch.high)))) if batch else (1, 1)
