"""An ONNX model, run by onnxruntime: its own names, datatypes and shapes are its signature. torch is not loaded for it.

A program of operators that compute, like an exported one: it may hold neither code nor files outside its folder.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import structlog

from moorage_store import formats
from moorage_store.digest import size_of
from moorage_store.errors import StoreError
from moorage_store.termination import one_line

from . import description, warming
from .failures import DeviceLost, StartupError
from .settings import Source
from .signature import BYTES, Array, Dim, Signature, TensorSpec
from .threads import cpus

if TYPE_CHECKING:
    from .preprocess import Preprocess

DATATYPES = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64", "int8": "INT8",
    "int16": "INT16", "int32": "INT32", "int64": "INT64", "float16": "FP16", "float": "FP32", "double": "FP64",
    "string": BYTES,
}  # fmt: skip
_CUDA = "CUDAExecutionProvider"
_ERRORS_ONLY = 3


@dataclass
class Model:
    session: Any
    signature: Signature
    device: str
    bytes: int
    inline = True
    weights = ""
    """It does not tell."""
    preprocess: "Preprocess | None" = None
    warm_up_seconds: float = 0.0
    batch_seconds: dict[int, float] = field(default_factory=dict)

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """The outputs in the order of the signature."""
        given = {
            spec.name: _texts(array) if spec.datatype == BYTES else array
            for spec, array in zip(self.signature.inputs, inputs, strict=True)
        }
        try:
            outputs = self.session.run([spec.name for spec in self.signature.outputs], given)
        except Exception as error:
            if self.device == "cuda" and "CUDA" in str(error):  # which remembers: every later call fails too
                raise DeviceLost(one_line(error)) from error
            raise
        return [
            _bytes(array) if spec.datatype == BYTES else array
            for spec, array in zip(self.signature.outputs, outputs, strict=True)
        ]

    def warm_up(self, max_batch_size: int, known: Mapping[int, float] | None) -> None:
        start = time.perf_counter()
        doubt, self.batch_seconds = warming.first_runs(
            self, {}, max_batch_size, known, lambda error: isinstance(error, DeviceLost) or _out_of_memory(error)
        )
        if doubt:
            structlog.get_logger().warning("not warmed up: the sizes of its inputs are free", message=doubt)
        self.warm_up_seconds = time.perf_counter() - start

    def close(self) -> None:
        """It goes with its last reference."""


def load(source: Source, device: str, max_batch_size: int, known: Mapping[int, float] | None = None) -> Model:
    """Checked, on its device and warm. Raises StartupError."""
    with _told(source.path):
        file = formats.find(source.path, source.format)
        source.check_digest()
        described = description.read(source.path, source.format) if source.path.is_dir() else None
        session = _session(file, device)
        signature = _signature(session)
        if described:
            signature = Signature(
                description.fit_inputs(described.inputs, signature.inputs),
                description.fit_outputs(described.outputs, signature.outputs, named=True),
            )
        on = "cuda" if _CUDA in session.get_providers() else "cpu"
        model = Model(session, signature, on, size_of(source.path))
        if described and described.preprocess:
            from . import preprocess  # and the libraries that it needs, which most models do not

            model.preprocess = preprocess.of(described.preprocess, signature, source.path)
        model.warm_up(max_batch_size, known)
        return model


def look(source: Source) -> int:
    """Bytes of its files. Raises StartupError where it is not there."""
    with _told(source.path):
        formats.find(source.path, source.format)
        return size_of(source.path)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Whatever goes wrong is a StartupError."""
    try:
        yield
    except StartupError:
        raise
    except StoreError as error:
        raise StartupError(error.reason, str(error)) from error
    except PermissionError as error:
        raise StartupError("AccessDenied", f"cannot read {error.filename}: {error.strerror}") from error
    except Exception as error:
        words = one_line(error)
        if _out_of_memory(error):
            message = f"{path} needs more memory than there is, or a smaller MOORAGE_MAX_BATCH_SIZE: {words}"
            raise StartupError("OutOfMemory", message) from error
        match type(error).__name__:  # onnxruntime's own, which share no class
            case "InvalidProtobuf":
                raise StartupError("ModelCorrupt", f"{path} is damaged or no ONNX: {words}") from error
            case "InvalidGraph" | "NotImplemented" | "InvalidArgument" | "Fail":
                raise StartupError("FormatMismatch", f"onnxruntime cannot run {path}: {words}") from error
        raise StartupError("LoadFailed", f"cannot load {path}: {words}") from error


def _session(file: Path, device: str) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        message = "ONNX models need onnxruntime, which is not installed here: pip install 'moorage[onnx]'"
        raise StartupError("InvalidConfiguration", message) from error
    onnxruntime.set_default_logger_severity(_ERRORS_ONLY)  # it warns of each device that is not there
    there = _CUDA in onnxruntime.get_available_providers()
    if device == "CUDA" and not there:
        message = (
            "CUDA was asked for, and the onnxruntime of this image is for processors: take an image with "
            "onnxruntime-gpu and give the server a GPU, or set the device to Auto or CPU"
        )
        raise StartupError("DeviceUnavailable", message)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cpus()
    # Threads that spin while they wait would use up what the pod may have of the processor.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = [_CUDA] if there and device != "CPU" else []
    return onnxruntime.InferenceSession(str(file), options, providers=[*providers, "CPUExecutionProvider"])


def _signature(session: Any) -> Signature:
    found = Signature(
        tuple(_spec(tensor, "input") for tensor in session.get_inputs()),
        tuple(_spec(tensor, "output") for tensor in session.get_outputs()),
    )
    if not found.inputs:
        raise StartupError("FormatMismatch", "the model takes no inputs")
    return _batched(found) if found.batch is None and _goes_by_rows(session, found) else found


def _spec(tensor: Any, kind: str) -> TensorSpec:
    name, datatype = tensor.name, DATATYPES.get(tensor.type.removeprefix("tensor(").removesuffix(")"))
    if datatype is None:
        hint = "; of scikit-learn, convert it with zipmap=False" if tensor.type.startswith("seq(map") else ""
        message = f"{kind} {name!r} is {tensor.type}; it must be a tensor of {', '.join(DATATYPES)}{hint}"
        raise StartupError("FormatMismatch", message)
    dims = (Dim(size) if isinstance(size, int) and size > 0 else Dim(-1, str(size or "")) for size in tensor.shape)
    return TensorSpec(name, datatype, tuple(dims))


def _goes_by_rows(session: Any, signature: Signature) -> bool:
    """What exporters call the first dimension of outputs is often another name, or none: so it is tried."""
    alike = _batched(signature)
    if alike.batch is None or len({spec.dims[0].symbol for spec in signature.inputs}) != 1:
        return False
    model = Model(session, signature, "", 0)
    try:
        return all(array.shape[:1] == (rows,) for rows in (2, 3) for array in model.run(alike.zeros(rows)))
    except Exception:  # sizes that are free had to be guessed
        return False


def _batched(signature: Signature) -> Signature:
    """As if the first dimension of all were the same, where it is free."""

    def alike(spec: TensorSpec) -> TensorSpec:
        free = spec.dims and spec.dims[0].dynamic
        return replace(spec, dims=(replace(spec.dims[0], symbol="batch"), *spec.dims[1:])) if free else spec

    return Signature(tuple(map(alike, signature.inputs)), tuple(map(alike, signature.outputs)))


def _texts(array: Array) -> Array:
    """Of bytes, as onnxruntime wants them."""
    texts = np.empty(array.size, object)
    texts[:] = [one.decode() for one in array.reshape(-1)]
    return texts.reshape(array.shape)


def _bytes(array: Array) -> Array:
    texts = np.empty(array.size, object)
    texts[:] = [one.encode() for one in array.reshape(-1)]
    return texts.reshape(array.shape)


def _out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or "allocate memory" in str(error) or "bad allocation" in str(error)
