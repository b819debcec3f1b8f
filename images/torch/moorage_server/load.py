"""From a path to a model in memory: find the file, check its digest and kind, load it, learn its signature.

Every failure is a `StartupError` whose message says what to do. Nothing is unpickled except with `weights_only`;
`model_check` has looked at the rest of the file before torch does.
"""

import math
import os
import pickle
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog
import torch
from torch import fx
from torch.utils import _pytree as pytree

from moorage_store import formats, model_check
from moorage_store.termination import one_line

from . import archive, compiled, description
from .failures import FAILED, DeviceLost, StartupError, told
from .model import DATATYPES, Model, datatype_of, leaves, order, out_of_memory, pick
from .program import Function, Program, flat, fused
from .settings import Source
from .signature import Dim, Signature, TensorSpec
from .threads import cpus


def load(
    source: Source, wanted: str = "Auto", max_batch_size: int = 64, known: Mapping[int, float] | None = None
) -> Model:
    """The model, checked, on its device and warm. `wanted`: which device, as the settings say; `known`: how long its
    batches take, where that was measured before."""
    # Where torch itself would unpickle with its restraints off, this setting of its own keeps them on.
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    torch.set_num_threads(cpus())
    with _told(source.path):
        model = _load(source, _device(wanted), max_batch_size)
        if doubt := model.warm_up(max_batch_size, known):
            structlog.get_logger().warning("not warmed up: the sizes of its inputs are free", message=doubt)
        # For debuggers torch keeps the source of every program that it has ever read.
        fx.graph_module._loader.eval_cache.clear()
        return model


def look(source: Source) -> int:
    """Bytes of its file. Raises StartupError where it is not there, or of another format."""
    with _told(source.path):
        file = formats.find(source.path, source.format)
        model_check.check_kind(file, source.format)
        return file.stat().st_size


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Whatever goes wrong is a StartupError."""
    try:
        with told():
            yield
    except StartupError:
        raise
    except pickle.UnpicklingError as error:
        why = f"it holds a pickled object that only its own code could load; {model_check.HOW_TO_EXPORT}"
        raise StartupError("UnsafeModel", f"the model is refused: {why}") from error
    except (DeviceLost, torch.AcceleratorError) as error:
        message = f"the device broke while the model was loaded: {one_line(error.__cause__ or error)}"
        raise StartupError("DeviceUnavailable", message, FAILED) from error
    except Exception as error:
        if out_of_memory(error):
            message = f"{path} needs more memory than there is, or a smaller MOORAGE_MAX_BATCH_SIZE: {one_line(error)}"
            raise StartupError("OutOfMemory", message) from error
        if "PytorchStreamReader" in str(error):
            raise StartupError("ModelCorrupt", f"{path} is damaged or cut short: {one_line(error)}") from error
        raise StartupError("LoadFailed", f"cannot load {path}: {one_line(error)}") from error


def _load(source: Source, device: str, max_batch_size: int) -> Model:
    path, wanted = source.path, source.format
    file = formats.find(path, wanted)
    source.check_digest()
    model_check.check_kind(file, wanted)
    if not source.sha256:
        model_check.check_whole(file)
    described = description.read(path, wanted) if path.is_dir() else None
    if described:
        description.no_texts(described)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if wanted == "TorchExport":
            model = _load_export(file, described, device, max_batch_size)
        elif wanted == "AOTInductor":
            model = compiled.load(file, described, device)
        else:
            model = _load_script(file, described, device)
    if described and described.preprocess:
        from . import preprocess  # and the libraries that it needs, which most models do not

        model.preprocess = preprocess.of(described.preprocess, model.signature, path)
    return model


def _device(wanted: str) -> str:
    there = torch.cuda.is_available()
    if wanted == "CUDA" and not there:
        raise StartupError(
            "DeviceUnavailable",
            f"CUDA was asked for, but torch {torch.__version__} sees no CUDA device: "
            "give the server a GPU, or set the device to Auto or CPU",
        )
    return "cuda" if there and wanted != "CPU" else "cpu"


def _load_export(file: Path, described: description.Description | None, device: str, max_batch_size: int) -> Model:
    model_check.check_export(file)
    program = _program(file, device)
    signature = own = program.signature
    if described:
        named = program.gives.type in (dict, OrderedDict)
        signature = Signature(
            description.fit_inputs(described.inputs, own.inputs),
            description.fit_outputs(described.outputs, own.outputs, named),
        )
    forward = fused(program.flat, signature, max_batch_size) if device == "cpu" else program.flat
    forward = _in_order(forward, program.gives, signature)
    examples = {spec.name: list(tensor.shape) for spec, tensor in zip(signature.inputs, program.examples, strict=False)}
    weights = program.flat.weights
    return Model(signature, device, forward, examples, program.flat.bytes, datatype_of(weights))


def _program(file: Path, device: str) -> Program:
    if device == "cpu":
        try:
            return archive.read(file)
        except Exception as error:  # torch knows more, and says better what is wrong
            structlog.get_logger().info("torch reads the program, which takes longer", message=one_line(error))
    # What torch.export.load calls, without its way back to an older format that `model_check` does not check.
    from torch.export.pt2_archive._package import load_pt2

    program = load_pt2(str(file)).exported_programs["model"]
    if device != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    given = pytree.tree_leaves(program.example_inputs) if program.example_inputs else []
    return Program(flat(program), _signature(program), program.call_spec.out_spec, given)


def _in_order(forward: Function, spec: Any, wanted: Signature) -> Function:
    """What it gives, in the order in which it is told. `spec`: the tree of its outputs."""
    places = order([output.name for output in wanted.outputs], spec)
    if places == list(range(spec.num_leaves)):
        return forward

    def ordered(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        given = forward(tensors)
        return [given[place] for place in places]

    return ordered


def _signature(program: torch.export.ExportedProgram) -> Signature:
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    bounds = {str(symbol): bound for symbol, bound in program.range_constraints.items()}

    def spec(name: str, value: Any, kind: str) -> TensorSpec:
        if not isinstance(value, torch.Tensor):
            message = f"{kind} {name} is not a tensor; export a model that takes and gives tensors only"
            raise StartupError("FormatMismatch", message)
        if value.dtype not in DATATYPES:
            raise StartupError("FormatMismatch", f"{kind} {name} is {value.dtype}, which the protocol does not have")
        return TensorSpec(name, DATATYPES[value.dtype], tuple(dim(size) for size in value.shape))

    def dim(size: int | torch.SymInt) -> Dim:
        if isinstance(size, int):
            return Dim(size)
        low, high = 1, math.inf
        if bound := bounds.get(str(size)):
            low = max(1, int(bound.lower)) if bound.lower.is_Integer else 1
            high = int(bound.upper) if bound.upper.is_Integer else math.inf
        return Dim(-1, str(size), low, high)

    taken, given = program.graph_signature.user_inputs, list(program.graph_signature.user_outputs)
    inputs = tuple(spec(str(name), values.get(str(name)), "input") for name in taken)
    named = leaves(pytree.tree_unflatten(given, program.call_spec.out_spec))
    return Signature(inputs, tuple(spec(name, values.get(str(node)), "output") for name, node in named))


def _load_script(file: Path, described: description.Description | None, device: str) -> Model:
    if described is None:
        raise StartupError(
            "FormatMismatch",
            f"a TorchScript program does not say what it takes: put a {description.FILE} beside {file.name} "
            "with inputs and outputs as lists of {name, datatype, shape}, or export the model with torch.export",
        )
    signature = description.signature_of(described)
    model_check.check_script(file)
    module = torch.jit.load(str(file), map_location=device).eval()  # type: ignore[no-untyped-call]
    model_check.check_loaded_script(module)
    takes = [argument.name for argument in module.forward.schema.arguments[1:]]
    order = description.places(signature.inputs, takes)

    names = [spec.name for spec in signature.outputs]

    def forward(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        return pick(names, module(*(tensors[i] for i in order)))

    weights = [*module.parameters(), *module.buffers()]
    size = sum(tensor.nbytes for tensor in weights)
    return Model(signature, device, forward, bytes=size, weights=datatype_of(weights))
