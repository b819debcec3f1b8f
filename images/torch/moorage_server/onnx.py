"""An ONNX model, run by onnxruntime: its own names, datatypes and shapes are its signature. torch is not loaded for it.

A program of operators that compute, like an exported one: it may hold neither code nor files outside its folder.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import structlog

from moorage_store import formats
from moorage_store.digest import size_of
from moorage_store.termination import one_line

from . import description, warming
from .failures import FAILED, DeviceLost, StartupError, told
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
            spec.name: _each(array, _decoded) if spec.datatype == BYTES else array
            for spec, array in zip(self.signature.inputs, inputs, strict=True)
        }
        try:
            outputs = self.session.run([spec.name for spec in self.signature.outputs], given)
        except Exception as error:
            if self.device == "cuda" and "CUDA" in str(error):  # which remembers: every later call fails too
                raise DeviceLost(one_line(error)) from error
            raise
        return [
            _each(array, str.encode) if spec.datatype == BYTES else array
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
        file.open("rb").close()  # which says better than onnxruntime that it may not be read
        session = _session(file, device)
        signature = _signature(session)
        if described:
            signature = Signature(
                description.fit_inputs(described.inputs, signature.inputs),
                description.fit_outputs(described.outputs, signature.outputs, named=True),
            )
        on = "cuda" if _CUDA in session.get_providers() else "cpu"
        if device == "CUDA" != on.upper():
            raise StartupError(
                "DeviceUnavailable", "CUDA was asked for, and onnxruntime cannot use it: its log says why"
            )
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
        with told():
            yield
    except StartupError:
        raise
    except DeviceLost as error:
        raise StartupError(
            "DeviceUnavailable", f"the device broke while the model was loaded: {error}", FAILED
        ) from error
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
    return onnxruntime.InferenceSession(
        str(file), options, providers=[*providers, "CPUExecutionProvider"], enable_fallback=int(device != "CUDA")
    )


def _signature(session: Any) -> Signature:
    found = Signature(
        tuple(_spec(tensor, "input") for tensor in session.get_inputs()),
        tuple(_spec(tensor, "output") for tensor in session.get_outputs()),
    )
    if not found.inputs:
        raise StartupError("FormatMismatch", "the model takes no inputs")
    return _with_first(found, "batch" if _goes_by_rows(session, found) else "")


def _spec(tensor: Any, kind: str) -> TensorSpec:
    name, datatype = tensor.name, DATATYPES.get(tensor.type.removeprefix("tensor(").removesuffix(")"))
    if datatype is None:
        hint = "; of scikit-learn, convert it with zipmap=False" if tensor.type.startswith("seq(map") else ""
        message = f"{kind} {name!r} is {tensor.type}; it must be a tensor of {', '.join(DATATYPES)}{hint}"
        raise StartupError("FormatMismatch", message)
    dims = (Dim(size) if isinstance(size, int) and size > 0 else Dim(-1, str(size or "")) for size in tensor.shape)
    return TensorSpec(name, datatype, tuple(dims))


def _goes_by_rows(session: Any, signature: Signature) -> bool:
    """Whether rows of several requests may go through it together.

    What exporters call the first dimension of outputs is often another name, or none; and a first dimension may be
    time. So it is tried: rows together must give what they give one by one.
    """
    alike = _with_first(signature, "batch")
    firsts = {spec.dims[0].symbol for spec in signature.inputs if spec.dims}
    if alike.batch is None or len(firsts) != 1:
        return False
    model = Model(session, alike, "", 0)
    chance = np.random.default_rng(0)
    rows = [
        array if array.dtype.kind != "f" else np.asarray(chance.random(array.shape), array.dtype)
        for array in alike.zeros(3)
    ]
    try:
        together = model.run(rows)
        alone = [model.run([array[i : i + 1] for array in rows]) for i in range(3)]
        return all(
            array.shape[:1] == (3,) and _alike(array, np.concatenate([one[i] for one in alone]))
            for i, array in enumerate(together)
        )
    except Exception:  # sizes that are free had to be guessed: then it is as it says
        return signature.batch is not None


def _alike(some: Array, others: Array) -> bool:
    if some.dtype.kind != "f":
        return np.array_equal(some, others)
    return np.allclose(some, others, rtol=1e-2, atol=1e-3 * max(1.0, float(np.abs(others).max(initial=0))))


def _with_first(signature: Signature, symbol: str) -> Signature:
    """With the first dimension of all called so, where it is free; of outputs otherwise where that is no name."""

    def named(spec: TensorSpec, name: str) -> TensorSpec:
        free = spec.dims and spec.dims[0].dynamic
        return replace(spec, dims=(replace(spec.dims[0], symbol=name), *spec.dims[1:])) if free else spec

    outputs = tuple(named(spec, symbol or "no batch") for spec in signature.outputs)
    return Signature(tuple(named(spec, symbol) if symbol else spec for spec in signature.inputs), outputs)


def _each(array: Array, change: Callable[[Any], Any]) -> Array:
    """An array of objects, each of them changed."""
    made = np.empty(array.size, object)
    made[:] = [change(one) for one in array.reshape(-1)]
    return made.reshape(array.shape)


def _decoded(text: bytes) -> str:
    return text.decode(errors="replace")


def _out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or "allocate memory" in str(error) or "bad allocation" in str(error)
