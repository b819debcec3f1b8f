"""One PyTorch model in memory: arrays in, arrays out, on the thread that calls.

Knows torch and nothing of requests: batches are the engine's, JSON the protocol's, and where the model came from is
`load`'s.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from moorage_store.termination import one_line

from . import warming
from .failures import DeviceLost, StartupError
from .signature import Array, Signature

if TYPE_CHECKING:
    from .preprocess import Preprocess

DTYPES = {
    "BOOL": torch.bool, "UINT8": torch.uint8, "UINT16": torch.uint16, "UINT32": torch.uint32, "UINT64": torch.uint64,
    "INT8": torch.int8, "INT16": torch.int16, "INT32": torch.int32, "INT64": torch.int64,
    "FP16": torch.float16, "BF16": torch.bfloat16, "FP32": torch.float32, "FP64": torch.float64,
}  # fmt: skip


DATATYPES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass
class Model:
    signature: Signature
    device: str
    inline = True
    forward: Callable[[list[torch.Tensor]], Sequence[torch.Tensor]]
    """Both in the order of the signature."""
    # Sizes each input was exported with: the best guess for dimensions that are free.
    examples: dict[str, list[int]] = field(default_factory=dict)
    bytes: int = 0
    """Of its weights, on the device."""
    weights: str = ""
    """The datatype that most of them have, by bytes: of a model that was quantised, INT8."""
    preprocess: "Preprocess | None" = None
    warm_up_seconds: float = 0.0
    batch_seconds: dict[int, float] = field(default_factory=dict)
    """Of a batch by its rows, as far as was measured."""

    def close(self) -> None:
        """It goes with its last reference."""

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """The outputs in the order of the signature. BF16, which numpy lacks, comes as float32."""
        try:
            with torch.inference_mode():
                tensors = [
                    torch.from_numpy(array).to(self.device, DTYPES[spec.datatype])
                    for array, spec in zip(inputs, self.signature.inputs, strict=True)
                ]
                return [to_array(tensor) for tensor in self.forward(tensors)]
        except torch.AcceleratorError as error:
            # CUDA remembers: after a failed kernel every later call of this process fails too.
            raise DeviceLost(one_line(error)) from error

    def warm_up(self, max_batch_size: int, known: Mapping[int, float] | None = None) -> str:
        """As `warming.first_runs`, which see."""
        start = time.perf_counter()
        # On the processor by its own time: on a busy machine batches of more than one row look slow, as their threads
        # wait for one another's turns. Waiting that spins still counts.
        clock = time.thread_time if self.device == "cpu" else time.perf_counter
        doubt, self.batch_seconds = warming.first_runs(self, self.examples, max_batch_size, known, _innocent, clock)
        self.warm_up_seconds = time.perf_counter() - start
        return doubt


def datatype_of(weights: Iterable[Any]) -> str:
    """The datatype with most bytes among them."""
    sizes: Counter[torch.dtype] = Counter()
    for weight in weights:
        if isinstance(weight, torch.Tensor):
            sizes[weight.dtype] += weight.nbytes
    for most, _ in sizes.most_common(1):
        return DATATYPES.get(most, str(most).removeprefix("torch.").upper())
    return ""


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """What a model returns, by name: keys of dicts, fields or places of tuples, `output` for a single tensor."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield from leaves(child, f"{path}.{key}" if path else str(key))
    elif isinstance(value, tuple | list):
        for i, child in enumerate(value):
            yield from leaves(child, f"{path or 'output'}_{i}")
    elif value is not None:
        yield path or "output", value


def pick(names: Sequence[str], result: Any) -> list[Any]:
    """The named ones out of what a program gave. Raises StartupError where those are others than the description's."""
    given = dict(leaves(result))
    if given.keys() >= set(names):
        return [given[name] for name in names]
    # A dictionary says which is which; what has no names of its own comes in order.
    if isinstance(result, dict) or len(given) != len(names):
        message = f"moorage.yaml names the outputs {names}, the program has {list(given)}"
        raise StartupError("FormatMismatch", message)
    return list(given.values())


def order(names: Sequence[str], gives: Any) -> list[int]:
    """Where the named ones stand among the leaves of that tree of outputs. Raises as `pick`."""
    return pick(names, pytree.tree_unflatten(list(range(gives.num_leaves)), gives))


def to_array(tensor: torch.Tensor) -> Array:
    if tensor.dtype is torch.bfloat16:
        tensor = tensor.float()
    array: Array = tensor.detach().cpu().contiguous().numpy()
    return array


def out_of_memory(error: BaseException) -> bool:
    """The processor's allocator has no exception of its own."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator: " in str(error)


def _innocent(error: BaseException) -> bool:
    """No sizes of inputs break a device, or are to blame for too little memory."""
    return isinstance(error, DeviceLost) or out_of_memory(error)
