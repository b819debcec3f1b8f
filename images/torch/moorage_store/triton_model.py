"""Serves an exported torch model on Triton's python backend, which gets a copy of this file as model.py.

MOORAGE_MODEL_PATH is the model (a folder, or its one file) and MOORAGE_MODEL_FORMAT says how it was exported. Inputs
and outputs come from moorage.yaml beside the model, else from the exported program. What a tensor is to the program its
own name says, never its place in the file; the torch server (moorage_server/description.py) holds the same rules. Needs
torch in Triton's Python, and nothing else. Tensors go through DLPack: the backend's own arrays break between versions
of NumPy.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import triton_python_backend_utils as pb_utils

FILES = {"TorchExport": "model.pt2", "TorchScript": "model.pt"}
# A tensor's name, datatype and shape. Requests and tensors are anything to the checker of types: their libraries are
# not there where it runs.
Description = dict[str, Any]

# Datatypes of the Open Inference Protocol with torch's names for them; Triton's have TYPE_ before.
DATATYPES = {
    "BOOL": "bool", "UINT8": "uint8", "INT8": "int8", "INT16": "int16", "INT32": "int32", "INT64": "int64",
    "FP16": "float16", "BF16": "bfloat16", "FP32": "float32", "FP64": "float64",
}  # fmt: skip


class OtherOutputs(ValueError):
    """What the program gives is not what its description says."""


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config: Any) -> Any:
        """Inputs and outputs for a config.pbtxt without them. With moorage.yaml this is done without torch."""
        file, form = _find()
        inputs, outputs = _described(file) or _signature(_load_export(file, form))
        batched = config.as_dict()["max_batch_size"] > 0
        for tensors, add in ((inputs, config.add_input), (outputs, config.add_output)):
            for tensor in tensors:
                add({
                    "name": tensor["name"],
                    "data_type": f"TYPE_{tensor['datatype']}",
                    "dims": _dims(tensor, batched),
                })  # fmt: skip
        return config

    def initialize(self, arguments: dict[str, str]) -> None:
        import torch

        config = json.loads(arguments["model_config"])
        self.batched = config["max_batch_size"] > 0
        # Instances of a model share the container's processors.
        instances = sum(int(group.get("count", 1)) for group in config.get("instance_group", [])) or 1
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // instances))
        gpu = arguments["model_instance_kind"].endswith("GPU")
        self.device = torch.device("cuda", int(arguments["model_instance_device_id"])) if gpu else torch.device("cpu")
        file, form = _find()
        if form == "TorchScript":
            self.inputs, self.outputs = _described(file) or _fail(
                f"a TorchScript program does not say what it takes: put a moorage.yaml beside {file.name}"
            )
            self.call, takes = _load_script(file, self.device)
        else:
            program = _load_export(file, form)
            self.inputs, self.outputs = _described(file) or _signature(program)
            self.call, takes = _callable(program, self.device)
        self.inputs = _ordered(self.inputs, takes)
        self._try_out()

    def execute(self, requests: list[Any]) -> list[Any]:
        """One forward pass for all requests. If that fails, one for each: the fault of one is not the others'."""
        if self.batched and len(requests) > 1:
            try:
                return self._answer(requests)
            except Exception as error:
                pb_utils.Logger.log_warn(f"a batch of {len(requests)} requests failed, trying each alone: {error}")
        return [self._answer_alone(request) for request in requests]

    def _answer_alone(self, request: Any) -> Any:
        try:
            return self._answer([request])[0]
        except Exception as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            # TorchScript's first line says that something failed, its last line what.
            message = ": ".join([type(error).__name__, *dict.fromkeys([*lines[:1], *lines[-1:]])])
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(message))

    def _answer(self, requests: list[Any]) -> list[Any]:
        import torch

        with torch.inference_mode():
            tensors = [[self._input(request, tensor) for request in requests] for tensor in self.inputs]
            rows = [len(tensor) for tensor in tensors[0]] if self.batched else []
            results = self._run([torch.cat(parts) if len(parts) > 1 else parts[0] for parts in tensors])
            if self.batched and any(len(result) != sum(rows) for result in results):
                raise ValueError(f"the model gave {[len(result) for result in results]} rows for {sum(rows)}")
            if self.batched:  # of a single value a row Triton makes rows of length 1, see _dims
                results = [result[:, None] if result.dim() == 1 else result for result in results]
            pieces = [result.split(rows) if self.batched else [result] for result in results]
        names = [tensor["name"] for tensor in self.outputs]
        return [
            pb_utils.InferenceResponse([
                pb_utils.Tensor.from_dlpack(name, piece.contiguous())
                for name, piece in zip(names, answer, strict=True)
            ])
            for answer in zip(*pieces, strict=True)
        ]  # fmt: skip

    def _input(self, request: Any, tensor: Description) -> Any:
        import torch

        given = pb_utils.get_input_tensor_by_name(request, tensor["name"])
        value = torch.utils.dlpack.from_dlpack(given).to(self.device)
        return value.flatten() if self.batched and len(tensor["shape"]) == 1 else value

    def _run(self, tensors: list[Any]) -> list[Any]:
        result = self.call(tensors)
        given = dict(_leaves(result))
        names = [tensor["name"] for tensor in self.outputs]
        if not set(names) <= set(given):
            # A dictionary says which is which; what has no names of its own comes in order.
            if isinstance(result, dict) or len(given) != len(names):
                raise OtherOutputs(f"moorage.yaml names the outputs {names}, the program has {list(given)}")
            given = dict(zip(names, given.values(), strict=True))
        return [given[name].cpu() for name in names]

    def _try_out(self) -> None:
        """A description that does not fit is found now, not by the first request; and that one is not slow."""
        import torch

        def sizes(tensor: Description) -> list[int]:
            return [1 if size < 0 else size for size in tensor["shape"]]

        # What else is dynamic (a length, say) may not allow 1; then nothing is tried.
        guess = any(size < 0 for tensor in self.inputs for size in tensor["shape"][1:])
        zeros = [
            torch.zeros(sizes(tensor), dtype=getattr(torch, DATATYPES[tensor["datatype"]]), device=self.device)
            for tensor in self.inputs
        ]
        try:
            with torch.inference_mode():
                results = self._run(zeros)
        except OtherOutputs as error:
            _fail(f"{error}: write the program's names")
        except Exception as error:
            if guess:
                return
            _fail(f"the model fails on zeros of the shapes {[list(zero.shape) for zero in zeros]}: {error}")
        for tensor, result in zip(self.outputs, results, strict=True):
            wanted = getattr(torch, DATATYPES[tensor["datatype"]])
            fits = len(result.shape) == len(tensor["shape"]) and all(
                size in (-1, given) for size, given in zip(tensor["shape"], result.shape, strict=True)
            )
            if result.dtype != wanted or not fits:
                said = f"{tensor['datatype']} {tensor['shape']}"
                _fail(
                    f"output {tensor['name']} is described as {said}, the model gives {result.dtype} {[*result.shape]}"
                )


def _find() -> tuple[Path, str]:
    path = Path(os.environ.get("MOORAGE_MODEL_PATH") or _fail("MOORAGE_MODEL_PATH is not set"))
    form = os.environ.get("MOORAGE_MODEL_FORMAT") or "TorchExport"
    if form not in FILES:
        _fail(f"MOORAGE_MODEL_FORMAT is {form}; this serves {' and '.join(FILES)}")
    file = path / FILES[form] if path.is_dir() else path
    if not file.is_file():
        there = ", ".join(sorted(entry.name for entry in path.iterdir())[:10]) if path.is_dir() else "nothing"
        _fail(f"there is no model at {file} (format {form}); there is {there or 'nothing'}")
    return file, form


def _described(file: Path) -> tuple[list[Description], list[Description]] | None:
    """Inputs and outputs of moorage.yaml, None where there is none."""
    path = file.with_name("moorage.yaml")
    if file.name not in FILES.values() or not path.is_file():
        return None
    text = path.read_text(encoding="utf-8")
    try:
        body = json.loads(text)  # as the trainer writes it
    except ValueError:
        try:
            import yaml
        except ImportError:
            _fail("moorage.yaml is not JSON, and Triton's Python has no PyYAML: write it as JSON, or install PyYAML")
        try:
            body = yaml.safe_load(text)
        except yaml.YAMLError as error:
            _fail(f"moorage.yaml is not YAML: {error}")
    if not isinstance(body, dict):
        _fail("moorage.yaml must be a mapping with the keys inputs and outputs")
    return _tensors(body.get("inputs")), _tensors(body.get("outputs"))


def _tensors(listed: Any) -> list[Description]:
    keys = {"name", "datatype", "shape"}
    if not isinstance(listed, list) or not all(
        isinstance(one, dict) and keys <= one.keys() for one in listed or [None]
    ):
        _fail("moorage.yaml must list inputs and outputs, each with name, datatype and shape")
    if len({tensor["name"] for tensor in listed}) != len(listed):
        _fail(f"moorage.yaml: names must differ, and these do not: {[tensor['name'] for tensor in listed]}")
    for tensor in listed:
        if tensor["datatype"] not in DATATYPES:
            _fail(f"moorage.yaml: {tensor['name']} is {tensor['datatype']}; it may be {', '.join(DATATYPES)}")
    return list(listed)


def _ordered(described: list[Description], takes: list[str]) -> list[Description]:
    """The inputs in the order in which the program takes them."""
    by_name = {tensor["name"]: tensor for tensor in described}
    names = [tensor["name"] for tensor in described]
    if sorted(names) != sorted(takes):
        _fail(f"moorage.yaml names the inputs {names}, the program has {takes}: write the program's names")
    return [by_name[name] for name in takes]


def _signature(program: Any) -> tuple[list[Description], list[Description]]:
    """Inputs and outputs as the exported program has them, under the names that the torch server gives them too."""
    import torch
    from torch.utils import _pytree

    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    names = {f"torch.{name}": datatype for datatype, name in DATATYPES.items()}

    def tensor(name: str, value: Any) -> Description:
        if not isinstance(value, torch.Tensor) or str(value.dtype) not in names:
            _fail(f"{name} is {getattr(value, 'dtype', type(value).__name__)}, which Triton cannot carry")
        shape = [size if isinstance(size, int) else -1 for size in value.shape]
        return {"name": name, "datatype": names[str(value.dtype)], "shape": shape}

    signature = program.graph_signature
    outputs = _leaves(_pytree.tree_unflatten(list(signature.user_outputs), program.call_spec.out_spec))
    return (
        [tensor(str(name), values.get(str(name))) for name in signature.user_inputs],
        [tensor(name, values.get(str(node))) for name, node in outputs],
    )


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """What a model returns, by name: keys of dictionaries, places in tuples, `output` for a single tensor."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield from _leaves(child, f"{path}.{key}" if path else str(key))
    elif isinstance(value, (tuple, list)):
        for place, child in enumerate(value):
            yield from _leaves(child, f"{path or 'output'}_{place}")
    elif value is not None:
        yield path or "output", value


def _dims(tensor: Description, batched: bool) -> list[int]:
    """Triton counts the batch apart, and knows no tensor of a single value a row: that one has rows of length 1."""
    shape = list(tensor["shape"])
    if not batched:
        return shape
    if not shape or shape[0] != -1:
        _fail(
            f"{tensor['name']} has the shape {shape}, which is not batch first (-1): "
            "set runtime.triton.maxBatchSize to 0, or export the model with a dynamic batch"
        )
    return shape[1:] or [1]


def _load_export(file: Path, form: str) -> Any:

    if form != "TorchExport":
        _fail(f"a TorchScript program does not say what it takes: put a moorage.yaml beside {file.name}")
    # A model must not be able to run code while it is loaded. Our init container has refused what could, except for
    # pickles: of those torch takes weights only.
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        # What torch.export.load calls, without its way back to an older format that nobody has checked.
        from torch.export.pt2_archive._package import load_pt2

        return load_pt2(str(file)).exported_programs["model"]
    except Exception as error:
        _fail(f"{file} cannot be loaded as a torch.export archive: {type(error).__name__}: {error}")


def _callable(program: Any, device: Any) -> tuple[Callable[[list[Any]], Any], list[str]]:
    """The program as a function of its inputs, and their names."""
    from torch.utils import _pytree

    if device.type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, str(device))
    # Guards are Python source out of the file.
    module, in_spec = program.module(check_guards=False), program.call_spec.in_spec

    def call(tensors: list[Any]) -> Any:
        args, kwargs = _pytree.tree_unflatten(tensors, in_spec)
        return module(*args, **kwargs)

    return call, [str(name) for name in program.graph_signature.user_inputs]


def _load_script(file: Path, device: Any) -> tuple[Callable[[list[Any]], Any], list[str]]:
    import torch

    try:
        module = torch.jit.load(str(file), map_location=device).eval()  # type: ignore[no-untyped-call]
    except Exception as error:
        _fail(f"{file} cannot be loaded as TorchScript: {type(error).__name__}: {error}")
    for part in module.modules():
        for name in part._c._method_names():
            graph = part._c._get_method(name).inlined_graph
            if any(graph.findAllNodes(f"aten::{operator}") for operator in ("save", "load", "from_file")):
                _fail(f"{file} is refused: its program reads or writes files")
    return lambda tensors: module(*tensors), [argument.name for argument in module.forward.schema.arguments[1:]]


def _fail(message: str) -> NoReturn:
    raise pb_utils.TritonModelException(message)
