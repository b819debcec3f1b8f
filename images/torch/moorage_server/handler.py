"""A model that is a Python class, or a module of torch with weights, in a process of its own: started, asked for
batches, and missed when it is gone.

`worker` is that process; `generations` asks it for texts. Knows neither requests nor torch.
"""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
import yaml

from moorage_store import formats
from moorage_store.digest import size_of

from . import calibration, description, pipe, warming
from .engine import ModelFailed
from .failures import ModelCrashed, StartupError, told
from .padding import Padding
from .settings import Source
from .signature import BYTES, Array, Dim, Signature, TensorSpec
from .threads import cpus

if TYPE_CHECKING:
    from .preprocess import Preprocess

TEXT = Signature(
    (TensorSpec("text_input", BYTES, (Dim(-1, "batch"),)),), (TensorSpec("text_output", BYTES, (Dim(-1, "batch"),)),)
)
"""What a class that can only generate takes and gives in an ordinary inference."""
_END_SECONDS = 5.0


class Handler:
    """`close` ends its process."""

    inline = False
    preprocess: "Preprocess | None" = None

    def __init__(self, source: Source, device: str) -> None:
        """Raises StartupError."""
        described = description.read(source.path, source.format)
        self._free = source.format == "Python"  # to do whatever it likes
        if self._free and described and described.preprocess:
            message = (
                f"{description.FILE} has preprocess, which a Python class does itself: write its method preprocess"
            )
            raise StartupError("FormatMismatch", message)
        module = None if self._free else _module(described)
        self._calls, calls = socket.socketpair()
        self.streams, streams = socket.socketpair()
        self._taken, self._given = pipe.Shelf.new("taken"), pipe.Shelf.new("given")
        ends = (calls.fileno(), streams.fileno(), self._taken.file, self._given.file)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "moorage_server.worker", *map(str, ends)],
            pass_fds=ends,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": str(cpus())},
        )
        calls.close()
        streams.close()
        self._closed = False
        self.batch_seconds: dict[int, float] = {}
        self.warm_up_seconds = 0.0
        try:
            able = self._ask({"load": {"folder": str(source.path.absolute()), "device": device, "module": module}})
            if "error" in able:
                message = f"cannot load {source.path / formats.FILES[source.format]}: {able['error']}"
                raise StartupError(able.get("reason", "LoadFailed"), message)
            self.signature = _signature(described, able)
            Padding(self.signature)  # which raises where it cannot be
            if described and described.preprocess:
                from . import preprocess  # and the libraries that it needs, which most models do not

                self.preprocess = preprocess.of(described.preprocess, self.signature, source.path)
        except BaseException:
            self.close()
            raise
        self.device: str = able["device"]
        self.generates: bool = able["generate"]
        self.predicts: bool = able["predict"]
        self.weights: str = able["weights"]
        self._wanted = [{"name": spec.name, "datatype": spec.datatype} for spec in self.signature.outputs]

    @property
    def bytes(self) -> int:
        """What its process takes of memory. Of a GPU's only its driver knows."""
        try:
            pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        except (OSError, IndexError):
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE")

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """The outputs in the order of the signature. Raises ModelFailed, ModelCrashed, and StartupError where it gives
        others."""
        self._living()
        specs = self.signature.inputs
        given = [(spec.name, spec.datatype, array) for spec, array in zip(specs, inputs, strict=True)]
        answer = self._ask({"run": {"inputs": self._taken.put(given), "outputs": self._wanted}})
        if "reason" in answer:
            raise StartupError(answer["reason"], answer["error"])
        if "error" in answer:
            raise ModelFailed(answer["error"])
        found = self._given.take(answer["outputs"])
        for spec in self.signature.outputs:
            if not spec.fits(found[spec.name].shape):
                message = f"output {spec} is described, the model gave {list(found[spec.name].shape)}"
                raise ModelFailed(message) if self._free else StartupError("FormatMismatch", message)
        return [found[spec.name] for spec in self.signature.outputs]

    def warm_up(self, max_batch_size: int, known: Mapping[int, float] | None = None) -> None:
        """Measures its batches with zeros, unless their times are `known`. What they mean to a class nobody knows: a
        failure is told and no reason not to serve. Of a module raises StartupError."""
        begun, doubt = time.perf_counter(), ""
        if not self._free:
            doubt, self.batch_seconds = warming.first_runs(self, {}, max_batch_size, known, _crashed)
        elif known or not self.predicts:
            self.batch_seconds = dict(known or {})
            return
        else:
            low, high = self.signature.batch_sizes(max_batch_size)
            try:
                self.batch_seconds = calibration.measure(lambda rows: self.run(self.signature.zeros(rows)), low, high)
            except ModelFailed as error:
                doubt = str(error)
        if doubt:
            structlog.get_logger().warning("not warmed up: it fails on zeros", message=doubt)
        self.warm_up_seconds = time.perf_counter() - begun

    def close(self) -> None:
        """Its process sees that nobody is there any more; it has a moment to end what it does."""
        if self._closed:
            return
        self._closed = True
        self._calls.close()
        self.streams.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._taken.close()
        self._given.close()

    def _living(self) -> None:
        if self._closed:
            raise ModelCrashed("the model's process has ended")

    def crashed(self) -> ModelCrashed:
        """Why it is gone."""
        try:
            code = self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return ModelCrashed("the model's process hung up")
        if code == -9:
            return ModelCrashed(
                "the model's process was killed (signal 9): it may have needed more memory than there is"
            )
        return ModelCrashed(
            f"the model's process ended {f'by signal {-code}' if code < 0 else f'with exit code {code}'}"
        )

    def _ask(self, message: dict[str, Any]) -> Any:
        try:
            pipe.send(self._calls, message)
            return pipe.receive(self._calls)
        except (EOFError, OSError) as error:
            raise self.crashed() from error


def load(source: Source, device: str, max_batch_size: int, known: Mapping[int, float] | None = None) -> Handler:
    """Raises StartupError."""
    _find(source)
    try:
        with told():
            source.check_digest()
            made = Handler(source, device)
    except ModelCrashed as error:
        file = formats.FILES[source.format]
        raise StartupError("ModelCrashed", f"{error}, while {file} was loaded; its log says more") from error
    try:
        made.warm_up(max_batch_size, known)
    except ModelCrashed as error:
        made.close()
        raise StartupError("ModelCrashed", f"{error}, on zeros of {list(map(str, made.signature.inputs))}") from error
    except ModelFailed as error:  # on a size of batch between the smallest and the largest
        made.close()
        raise StartupError("LoadFailed", f"the model fails on zeros: {error}") from error
    except BaseException:
        made.close()
        raise
    return made


def look(source: Source) -> int:
    """Bytes of its files. Raises StartupError where it is not there."""
    _find(source)
    return size_of(source.path)


def _find(source: Source) -> None:
    with told():
        formats.find(source.path, source.format)


def _module(described: description.Description | None) -> dict[str, Any]:
    """What `weights.Weights` is made of."""
    if described is None or not re.fullmatch(r"\w+(\.\w+)*:\w+(\.\w+)*", described.module):
        message = (
            f"weights do not say what they belong to: put a {description.FILE} beside them with module: MODULE:NAME, "
            "the torch.nn.Module (net:Net of a net.py beside them, say), and inputs and outputs as lists of "
            "{name, datatype, shape}"
        )
        raise StartupError("FormatMismatch", message)
    description.no_texts(described)
    signature = description.signature_of(described)
    return {
        "module": described.module,
        "arguments": yaml.safe_dump(described.arguments),
        "inputs": {spec.name: spec.datatype for spec in signature.inputs},
        "outputs": {spec.name: spec.datatype for spec in signature.outputs},
    }


def _crashed(error: BaseException) -> bool:
    return isinstance(error, ModelCrashed)


def _signature(described: description.Description | None, able: Mapping[str, Any]) -> Signature:
    if not able["predict"]:
        return TEXT
    if described is not None and (described.inputs or described.outputs):
        return description.signature_of(described)
    message = (
        f"a Python class does not say what it takes: put a {description.FILE} beside {formats.FILES['Python']} with"
    )
    raise StartupError("FormatMismatch", f"{message} inputs and outputs as lists of {{name, datatype, shape}}")
