"""`python -m moorage_server.worker`: the process of a model that is a Python class, or a module with its weights. It is
started by `handler`.

The user's code runs here and nowhere else: what it imports, breaks or leaks is not the server's. One thread does all in
turn: a batch of inference, then one step of each text that is being generated, as long as its client keeps up.
"""

import contextlib
import importlib.util
import inspect
import os
import selectors
import signal
import socket
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moorage_store.formats import FILES
from moorage_store.termination import one_line

from . import pipe
from .failures import StartupError
from .signature import ARRAYS, BYTES, Array

FILE, CLASS = FILES["Python"], "Model"
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_GPU_FILES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")


@dataclass(slots=True)
class _Text:
    """One that is being generated."""

    pieces: Iterator[Any]
    credit: int
    """How many pieces its reader has room for."""


class Worker:
    def __init__(self, ends: pipe.Ends) -> None:
        self._calls, self._streams = socket.socket(fileno=ends.calls), socket.socket(fileno=ends.streams)
        self._taken, self._given = pipe.Shelf(ends.taken), pipe.Shelf(ends.given)
        os.register_at_fork(after_in_child=self._forget)
        self._reader = pipe.Reader()
        self._model: Any = None
        self._folder = Path()
        self._texts: dict[int, _Text] = {}

    def _forget(self) -> None:
        """In a process that the class has forked: it must not keep the server from seeing the end of this one."""
        for one in (self._calls, self._streams):
            one.close()
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)

    def serve(self) -> None:
        """Until the server goes."""
        selector = selectors.DefaultSelector()
        selector.register(self._calls, selectors.EVENT_READ, self._call)
        selector.register(self._streams, selectors.EVENT_READ, self._stream)
        try:
            while True:
                busy = any(text.credit for text in self._texts.values())
                for key, _ in selector.select(0 if busy else None):
                    key.data()
                for number, text in list(self._texts.items()):
                    if text.credit:
                        self._step(number, text)
        except (EOFError, ConnectionError):
            return

    def _call(self) -> None:
        asked = pipe.receive(self._calls)
        try:
            answer = self._load(**asked["load"]) if "load" in asked else self._run(**asked["run"])
        except StartupError as error:
            answer = {"error": error.message, "reason": error.reason}
        except Exception as error:
            if "load" in asked:
                traceback.print_exc()
            answer = {"error": self._told(error)}
        pipe.send(self._calls, answer)

    def _load(self, folder: str, device: str, module: dict[str, Any] | None) -> dict[str, Any]:
        """`module`: what `weights` asks for, where the model is that."""
        self._folder, found = Path(folder), _device(device)
        if module is not None:
            from .weights import Weights  # and torch, before a file of theirs can take the place of one that it needs
        sys.path.insert(0, folder)  # its own modules lie beside it
        made = _class(self._folder)() if module is None else Weights(**module)
        able = {name: callable(getattr(made, name, None)) for name in ("predict", "generate")}
        if not any(able.values()):
            raise StartupError("FormatMismatch", f"{FILE}: class {CLASS} has neither predict nor generate: write one")
        if callable(load := getattr(made, "load", None)):
            load(self._folder, found)
        self._model = made
        return {**able, "device": found, "weights": made.weights if module else ""}

    def _run(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> dict[str, Any]:
        """`outputs`: names and datatypes of what it has to give."""
        model, given = self._model, self._taken.take(inputs)
        if not callable(getattr(model, "predict", None)):
            result: Any = {"text_output": [_whole(model, text) for text in given["text_input"].reshape(-1)]}
        else:
            value: Any = given
            for name in ("preprocess", "predict", "postprocess"):
                if (step := getattr(model, name, None)) is not None:
                    value = step(value)
            result = value
        return {"outputs": self._given.put(_described(result, outputs))}

    def _stream(self) -> None:
        # All that there is: each step of a text brings a message back.
        if not (data := self._streams.recv(1 << 16)):
            raise EOFError
        for asked in self._reader.feed(data):
            self._heard(asked)

    def _heard(self, asked: dict[str, Any]) -> None:
        number = asked["id"]
        if "text" in asked:
            try:
                pieces = iter(self._model.generate(asked["text"], asked["parameters"]))
            except Exception as error:
                pipe.send(self._streams, {"id": number, "error": self._told(error)})
                return
            self._texts[number] = _Text(pieces, asked["credit"])
        elif text := self._texts.get(number):
            if "credit" in asked:
                text.credit += asked["credit"]
            else:
                self._end(number)

    def _step(self, number: int, text: _Text) -> None:
        try:
            piece = next(text.pieces)
            if not isinstance(piece, str):
                raise TypeError(f"generate gave {type(piece).__name__}; it must give texts (str)")
            piece.encode()  # half a character cannot be sent
        except StopIteration:
            said: dict[str, Any] = {"id": number, "end": True}
        except Exception as error:
            said = {"id": number, "error": self._told(error)}
        else:
            text.credit -= 1
            pipe.send(self._streams, {"id": number, "piece": piece})
            return
        self._end(number)
        pipe.send(self._streams, said)

    def _end(self, number: int) -> None:
        text = self._texts.pop(number)
        try:
            if callable(close := getattr(text.pieces, "close", None)):
                close()
        except Exception:  # its reader has gone: nobody is left to be told
            traceback.print_exc()

    def _told(self, error: BaseException) -> str:
        """In one line, and where in the user's code it was."""
        files = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
        own = [f" ({file.name}, line {line})" for file, line in files if file.is_relative_to(self._folder)]
        return f"{one_line(error)}{own[-1] if own else ''}".encode("utf-8", "replace").decode()


def _class(folder: Path) -> Any:
    spec = importlib.util.spec_from_file_location("model", folder / FILE)
    assert spec is not None and spec.loader is not None
    module = sys.modules["model"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = getattr(module, CLASS, None)
    if not inspect.isclass(found):
        raise StartupError(
            "FormatMismatch", f"{FILE} has no class {CLASS}: write class {CLASS} with predict or generate"
        )
    return found


def _device(wanted: str) -> str:
    there = False
    if wanted != "CPU" and any(map(os.path.exists, _GPU_FILES)):
        with contextlib.suppress(ImportError):  # which takes a second or two, and not every class has need of it
            import torch

            there = torch.cuda.is_available()
    if wanted == "CUDA" and not there:
        raise StartupError(
            "DeviceUnavailable", "CUDA was asked for, and there is none: give the server a GPU, or ask for CPU"
        )
    return "cuda" if there else "cpu"


def _whole(model: Any, text: bytes) -> str:
    return "".join(model.generate(text.decode(errors="replace"), {}))


def _described(result: Any, outputs: list[dict[str, Any]]) -> list[tuple[str, str, Array]]:
    if not isinstance(result, Mapping):
        raise TypeError(f"{CLASS} gave {type(result).__name__}; it must give a dict of arrays by output")
    names = [output["name"] for output in outputs]
    if missing := [name for name in names if name not in result]:
        raise ValueError(f"{CLASS} gave {sorted(map(str, result))}; output {missing[0]!r} is missing")
    return [(one["name"], one["datatype"], _as_array(result[one["name"]], **one)) for one in outputs]


def _as_array(value: Any, name: str, datatype: str) -> Array:
    if hasattr(value, "detach"):  # a tensor
        value = value.detach().cpu()
        value = (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
    array = np.asarray(value, None if datatype != BYTES else object)
    if datatype == BYTES:
        flat = [_as_bytes(name, one) for one in array.reshape(-1)]
        texts = np.empty(len(flat), object)
        texts[:] = flat
        return texts.reshape(array.shape)
    want = ARRAYS[datatype]
    if not np.can_cast(array.dtype, want, "same_kind"):
        raise TypeError(f"output {name!r} is {array.dtype}; {datatype} is described")
    return array.astype(want)


def _as_bytes(name: str, value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise TypeError(f"output {name!r} has {type(value).__name__}; BYTES are texts or bytes")


def main() -> int:
    ends = pipe.Ends(*map(int, sys.argv[1:]))
    for file in (ends.calls, ends.streams, ends.taken, ends.given):
        os.set_inheritable(file, False)
    for number in _SIGNALS:  # the server has been told, too, and ends what it has begun
        signal.signal(number, lambda *_: None)
    sys.dont_write_bytecode = True
    try:
        Worker(ends).serve()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Whatever threads the class has begun.
    os._exit(code)
