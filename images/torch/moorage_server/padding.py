"""Requests of different sizes in one batch: what is shorter is filled up behind, and outputs are cut back.

Only inputs whose description says with what (`padding` in `moorage.yaml`): it changes what a model computes, unless a
mask or the model itself leaves it out. Sizes go together where the larger is less than twice the smaller or so, as a
row of a batch costs what its longest costs.
"""

from collections.abc import Sequence

import numpy as np

from .failures import StartupError
from .signature import Array, Dim, Signature, TensorSpec


class Padding:
    """Of a model whose inputs have free sizes besides the batch."""

    def __init__(self, signature: Signature) -> None:
        """Raises StartupError where it cannot be told what to cut of an output."""
        self._inputs = signature.inputs
        places = {
            dim.symbol: (i, axis)
            for i, spec in enumerate(signature.inputs)
            if spec.padding is not None
            for axis, dim in _free(spec)
        }
        # Of each output: its axes that are as long as an input's.
        self._cuts = [
            [(axis, *places[dim.symbol]) for axis, dim in _free(spec) if dim.symbol in places]
            for spec in signature.outputs
        ]
        if not places:
            return
        if "" in places:
            message = "padding needs a program that names its sizes, of format TorchExport or ONNX: leave it out"
            raise StartupError("FormatMismatch", message)
        known = {dim.symbol for spec in signature.inputs for _, dim in _free(spec)} - {""}
        for spec in signature.outputs:
            if any(dim.symbol not in known for _, dim in _free(spec)):
                message = f"inputs have padding, but the size of output {spec} is none of theirs: leave padding out"
                raise StartupError("FormatMismatch", message)

    def key(self, inputs: Sequence[Array]) -> tuple[tuple[int, ...], ...]:
        """Requests with the same may go together."""
        return tuple([
            array.shape[1:] if spec.padding is None else tuple([(size - 1).bit_length() for size in array.shape[1:]])
            for spec, array in zip(self._inputs, inputs, strict=True)
        ])  # fmt: skip

    def together(self, requests: Sequence[Sequence[Array]]) -> list[Array]:
        """The inputs of a batch."""
        return [
            _filled(parts, spec.padding) for spec, parts in zip(self._inputs, zip(*requests, strict=True), strict=True)
        ]

    def cut(self, outputs: list[Array], inputs: Sequence[Array]) -> list[Array]:
        """A request's outputs, as long as they would be if it had come alone."""
        return [
            array[tuple(_ends(array, cuts, inputs))] if cuts else array
            for array, cuts in zip(outputs, self._cuts, strict=True)
        ]


def _free(spec: TensorSpec) -> list[tuple[int, Dim]]:
    return [(axis, dim) for axis, dim in enumerate(spec.dims) if axis and dim.dynamic]


def _filled(parts: Sequence[Array], padding: float | None) -> Array:
    if padding is None or len({part.shape[1:] for part in parts}) == 1:
        return np.concatenate(parts)
    sizes = [max(each) for each in zip(*(part.shape[1:] for part in parts), strict=True)]
    made = np.full((sum(map(len, parts)), *sizes), padding, parts[0].dtype)
    end = 0
    for part in parts:
        begin, end = end, end + len(part)
        made[(slice(begin, end), *map(slice, part.shape[1:]))] = part
    return made


def _ends(array: Array, cuts: Sequence[tuple[int, int, int]], inputs: Sequence[Array]) -> list[slice]:
    ends = [slice(None)] * array.ndim
    for axis, i, of in cuts:
        ends[axis] = slice(inputs[i].shape[of])
    return ends
