"""A model that is a Python class, in a process of its own: started, asked for batches, and missed when it is gone.

`worker` is that process; `generations` asks it for texts. Knows neither requests nor torch.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from moorage_store import formats
from moorage_store.digest import size_of

from . import calibration, description, pipe
from .engine import ModelFailed
from .failures import ModelCrashed, StartupError, told
from .padding import Padding
from .settings import Source
from .signature import BYTES, Array, Dim, Signature, TensorSpec
from .threads import cpus
from .worker import FILE

TEXT = Signature(
    (TensorSpec("text_input", BYTES, (Dim(-1, "batch"),)),), (TensorSpec("text_output", BYTES, (Dim(-1, "batch"),)),)
)
"""What a class that can only generate takes and gives in an ordinary inference."""
_END_SECONDS = 5.0


class Handler:
    """`close` ends its process."""

    inline = False
    weights = ""
    preprocess = None
    """Its class does that itself."""

    def __init__(self, source: Source, device: str) -> None:
        """Raises StartupError."""
        described = description.read(source.path, source.format)
        if described and described.preprocess:
            message = (
                f"{description.FILE} has preprocess, which a Python class does itself: write its method preprocess"
            )
            raise StartupError("FormatMismatch", message)
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
            able = self._ask({"load": {"folder": str(source.path.absolute()), "device": device}})
            if "error" in able:
                raise StartupError(
                    able.get("reason", "LoadFailed"), f"cannot load {source.path / FILE}: {able['error']}"
                )
            self.signature = _signature(described, able)
            Padding(self.signature)  # which raises where it cannot be
        except BaseException:
            self.close()
            raise
        self.device: str = able["device"]
        self.generates: bool = able["generate"]
        self.predicts: bool = able["predict"]
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
        """The outputs in the order of the signature. Raises ModelFailed and ModelCrashed."""
        self._living()
        specs = self.signature.inputs
        given = [(spec.name, spec.datatype, array) for spec, array in zip(specs, inputs, strict=True)]
        answer = self._ask({"run": {"inputs": self._taken.put(given), "outputs": self._wanted}})
        if "error" in answer:
            raise ModelFailed(answer["error"])
        found = self._given.take(answer["outputs"])
        for spec in self.signature.outputs:
            if not spec.fits(found[spec.name].shape):
                raise ModelFailed(f"output {spec} is described, predict gave {list(found[spec.name].shape)}")
        return [found[spec.name] for spec in self.signature.outputs]

    def warm_up(self, max_batch_size: int, known: Mapping[int, float] | None = None) -> None:
        """Measures its batches with zeros, unless their times are `known`. What they mean to it nobody knows: a failure
        is told and no reason not to serve."""
        begun = time.perf_counter()
        if known or not self.predicts:
            self.batch_seconds = dict(known or {})
            return
        low, high = self.signature.batch_sizes(max_batch_size)
        try:
            self.batch_seconds = calibration.measure(lambda rows: self.run(self.signature.zeros(rows)), low, high)
        except ModelFailed as error:
            structlog.get_logger().warning("not warmed up: it fails on zeros", message=str(error))
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
    source.check_digest()
    try:
        made = Handler(source, device)
    except ModelCrashed as error:
        raise StartupError("ModelCrashed", f"{error}, while {FILE} was loaded; its log says more") from error
    try:
        made.warm_up(max_batch_size, known)
    except ModelCrashed as error:
        made.close()
        raise StartupError("ModelCrashed", f"{error}, on zeros of {list(map(str, made.signature.inputs))}") from error
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


def _signature(described: description.Description | None, able: Mapping[str, Any]) -> Signature:
    if not able["predict"]:
        return TEXT
    if described is not None and (described.inputs or described.outputs):
        return description.signature_of(described)
    message = (
        f"a Python class does not say what it takes: put a {description.FILE} beside {FILE} with inputs and outputs"
    )
    raise StartupError("FormatMismatch", f"{message} as lists of {{name, datatype, shape}}")
