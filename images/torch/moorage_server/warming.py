"""The first runs of a model, before it is ready: no request pays for first times, what comes out is checked against the
signature, and the batches are measured.

Knows no library that models run in.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from moorage_store.termination import one_line

from . import calibration
from .failures import StartupError
from .padding import Padding
from .signature import ARRAYS, Array, Signature, TensorSpec


class Runs(Protocol):
    @property
    def signature(self) -> Signature: ...
    def run(self, inputs: Sequence[Array]) -> list[Array]: ...


def first_runs(
    model: Runs,
    examples: Mapping[str, Sequence[int]],
    max_batch_size: int,
    known: Mapping[int, float] | None,
    innocent: Callable[[BaseException], bool],
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[str, dict[int, float]]:
    """Zeros of the smallest and the largest batch, and of the sizes between, unless their times are `known`.

    `examples`: sizes of inputs that it is known to take. `innocent`: of a failure, that no sizes are to blame for it.
    Returns the words of a failure that may be the fault of sizes which had to be guessed, else none; and seconds of a
    batch by its rows. Raises StartupError, and what is innocent.
    """
    signature = model.signature
    Padding(signature)  # which raises where it cannot be
    low, high = signature.batch_sizes(max_batch_size)
    for count in sorted({low, high}):
        inputs = signature.zeros(count, examples)
        try:
            outputs = model.run(inputs)
        except Exception as error:
            if isinstance(error, StartupError) or innocent(error):
                raise
            message = f"the model fails on zeros of shape {[list(array.shape) for array in inputs]}: {one_line(error)}"
            if _guessed(signature, examples):
                return message, {}
            raise StartupError("LoadFailed", message) from error
        for spec, array in zip(signature.outputs, outputs, strict=True):
            _check_output(spec, array)
    if known:
        return "", dict(known)
    return "", calibration.measure(lambda rows: model.run(signature.zeros(rows, examples)), low, high, clock)


def _guessed(signature: Signature, examples: Mapping[str, Sequence[int]]) -> bool:
    return any(
        dim.dynamic
        for spec in signature.inputs
        if spec.name not in examples
        for dim in spec.dims[1 if signature.batch else 0 :]
    )


def _check_output(spec: TensorSpec, array: Array) -> None:
    if not spec.fits(array.shape) or array.dtype != ARRAYS[spec.datatype]:
        raise StartupError(
            "FormatMismatch", f"output {spec} is described, the model gives {array.dtype} {list(array.shape)}"
        )
