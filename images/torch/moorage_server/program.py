"""An exported program as a plain function: flat tensors in, flat tensors out, its weights already in their places.

`ExportedProgram.module()` flattens trees, runs hooks and looks every weight up anew in each call, which takes longer
than a small model's forward pass. What is left here is the graph's own list of operators. Those with convolutions are
fused for the processor besides, where that gives the same numbers in less time.
"""

import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog
import torch
from torch import Tensor, fx, nn

from .calibration import shortest
from .model import DTYPES
from .signature import Dim, Signature

Function = Callable[[list[Tensor]], Sequence[Tensor]]

_CONVOLUTIONS = {torch.ops.aten.convolution.default, *(
    getattr(torch.ops.aten, name).default for name in ("conv1d", "conv2d", "conv3d")
)}  # fmt: skip
# A fused program has its weights in another order: for a while there are two of them.
_MOST_FUSED_BYTES = 1 << 29
_FASTER = 0.9


@dataclass(frozen=True, eq=False)
class Flat:
    """A program's operators: a function of its weights and, in the order of its user inputs, of tensors.

    Without the graph that it was made from, which is a circle of many small things: so a model that leaves memory takes
    all of it along.
    """

    weights: list[Any]
    forward: Callable[..., Sequence[Tensor]]
    convolves: bool

    @property
    def bytes(self) -> int:
        return sum(weight.nbytes for weight in self.weights if isinstance(weight, Tensor))

    def __call__(self, tensors: list[Tensor]) -> Sequence[Tensor]:
        return self.forward(*self.weights, *tensors)


@dataclass(frozen=True, eq=False)
class Program:
    """What there is to know of an exported program."""

    flat: Flat
    signature: Signature
    gives: Any
    """The tree of its outputs, as torch.utils._pytree has it."""
    examples: list[Any]
    """The inputs that it was exported with, as far as they are in the file."""


def flat(program: torch.export.ExportedProgram) -> Flat:
    # Guards are Python source out of the file. Names, datatypes and shapes are checked with every request instead.
    module = program.module(check_guards=False)
    graph, weights, known = fx.Graph(), [], {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            value: Any = module
            for name in str(node.target).split("."):
                value = getattr(value, name)
            weights.append(value.detach() if isinstance(value, Tensor) else value)
            known[node] = graph.placeholder(f"weight_{len(weights)}")
    for node in module.graph.nodes:
        if node.target is torch.ops.aten.sym_size.int:  # the same, at a tenth of the cost; and it can be traced
            tensor, place = node.args
            known[node] = graph.call_method("size", (known[tensor], place))
        elif node.op != "get_attr":
            known[node] = graph.node_copy(node, lambda one: known[one])
    return flat_of(graph, weights)


def flat_of(graph: fx.Graph, weights: list[Any]) -> Flat:
    """Of a graph that takes the weights first, then the user inputs."""
    convolves = any(node.target in _CONVOLUTIONS for node in graph.nodes)
    # Its weights are arguments: it asks nothing of the module.
    return Flat(weights, partial(type(fx.GraphModule({}, graph)).forward, None), convolves)


def fused(plain: Flat, signature: Signature, max_batch_size: int = 64) -> Function:
    """`plain`, or the same program as TorchScript with convolutions fused and in the processor's own layout (by
    oneDNN): three times as fast with small images in batches."""
    batch = signature.batch
    free = [dim for spec in signature.inputs for dim in spec.dims[1 if batch else 0 :] if dim.dynamic]
    if not plain.convolves or free or plain.bytes > _MOST_FUSED_BYTES:
        return plain
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # TorchScript is to go some day; until then nothing else does this
            return _better(_script(plain, _example(signature, 3)), plain, signature, max_batch_size)
    except Exception as error:
        structlog.get_logger().info("not fused", message=str(error).partition("\n")[0][:200])
        return plain


class _Bound(nn.Module):
    def __init__(self, plain: Flat) -> None:
        super().__init__()
        self._run, self._count = plain.forward, len(plain.weights)
        for number, weight in enumerate(plain.weights):
            self.register_buffer(f"weight_{number}", weight)

    def forward(self, *tensors: Tensor) -> Any:
        return self._run(*(getattr(self, f"weight_{number}") for number in range(self._count)), *tensors)


def _script(plain: Flat, example: list[Tensor]) -> Function:
    traced = torch.jit.trace(_Bound(plain).eval(), tuple(example), check_trace=False)  # type: ignore[no-untyped-call]
    # What is traced lives in a place that torch shares and never empties, with all the weights that freezing makes
    # constants. What is read from a file has a place of its own, and goes with it.
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    alone = torch.jit.load(file)  # type: ignore[no-untyped-call]
    script = torch.jit.optimize_for_inference(torch.jit.freeze(alone.eval()))
    return lambda tensors: _tuple(script(*tensors))


def _better(script: Function, plain: Function, signature: Signature, max_batch_size: int) -> Function:
    # A trace has no branches, but numbers may have become constants in it: so other sizes than it was made with.
    low, high = signature.batch_sizes(max_batch_size)
    sizes = sorted({min(max(rows, low), high) for rows in (low, low + 1, 8, high)})
    for rows in sizes:
        example = _example(signature, rows)
        for mine, theirs in zip(script(example), plain(example), strict=True):
            scale = float(theirs.abs().max()) if theirs.is_floating_point() else 0.0
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5 * max(1.0, scale))
    example = _example(signature, sizes[len(sizes) // 2])
    faster = shortest(partial(script, example)) < _FASTER * shortest(partial(plain, example))
    return script if faster else plain


def _example(signature: Signature, rows: int) -> list[Tensor]:
    def tensor(dims: Sequence[Dim], datatype: str) -> Tensor:
        sizes = [rows if dim.dynamic else dim.size for dim in dims]
        dtype = DTYPES[datatype]
        return torch.rand(sizes).to(dtype) if dtype.is_floating_point else torch.zeros(sizes, dtype=dtype)

    return [tensor(spec.dims, spec.datatype) for spec in signature.inputs]


def _tuple(result: Any) -> Sequence[Tensor]:
    return result if isinstance(result, tuple | list) else (result,)
