"""A model that is weights (safetensors) and the `torch.nn.Module` that takes them, as a class of format Python has it.

Runs in `worker`'s process, as the module is code: a file beside the weights, or a library of the image.
"""

import importlib
import inspect
import textwrap
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file

from moorage_store.formats import FILES
from moorage_store.termination import one_line

from .failures import StartupError, told
from .memory import keep_freed
from .model import DTYPES, datatype_of, out_of_memory, pick, to_array
from .signature import Array

FILE = FILES["Safetensors"]


class Weights:
    def __init__(self, module: str, arguments: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
        """`module`: MODULE:NAME of what makes the torch.nn.Module out of the `arguments`, which are YAML: JSON has
        not all of it. `inputs`, `outputs`: datatypes by name; the former are arguments of its forward. Raises
        StartupError."""
        self._make, self._arguments = _found(module), yaml.safe_load(arguments)
        self._dtypes = {name: DTYPES[datatype] for name, datatype in inputs.items()}
        self._outputs = {name: DTYPES[datatype] for name, datatype in outputs.items()}

    def load(self, folder: Path, device: str) -> None:
        """Raises StartupError, and what the module raises when it is made."""
        keep_freed()
        with _memory():
            self._load(folder, device)

    def _load(self, folder: Path, device: str) -> None:
        with told(), (folder / FILE).open("rb"):  # for the words of one that may not be read
            pass
        try:
            weights = load_file(folder / FILE, device)
        except SafetensorError as error:
            raise StartupError("ModelCorrupt", f"{FILE} is damaged or cut short: {one_line(error)}") from error
        if device == "cpu":  # it only maps the file, which somebody may write to
            weights = {name: weight.clone() for name, weight in weights.items()}
        module = self._make(**self._arguments)
        if not isinstance(module, torch.nn.Module):
            raise StartupError("FormatMismatch", f"module makes a {type(module).__name__}, not a torch.nn.Module")
        self._check_takes(module)
        try:
            # As they are in the file: of half the precision, say, though the module was made with all of it.
            module.load_state_dict(_with_twins(weights, module), assign=True)
        except RuntimeError as error:
            message = textwrap.shorten(str(error), 500, placeholder=" …")
            raise StartupError("FormatMismatch", f"{FILE} has other weights than the module: {message}") from error
        self._module, self._device = module.to(device).eval(), device
        self.weights = datatype_of(weights.values())

    def _check_takes(self, module: torch.nn.Module) -> None:
        try:
            inspect.signature(module.forward).bind(**dict.fromkeys(self._dtypes))
        except TypeError as error:
            message = (
                f"moorage.yaml names the inputs {list(self._dtypes)}, the module's forward does not take them: {error}"
            )
            raise StartupError("FormatMismatch", message) from error
        except ValueError:  # it has none that could be looked at
            return

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Raises StartupError where it gives others than are described, or needs more memory than there is."""
        try:
            with torch.inference_mode(), _memory():
                given = {
                    name: torch.from_numpy(array).to(self._device, self._dtypes[name]) for name, array in inputs.items()
                }
                names = list(self._outputs)
                found = dict(zip(names, pick(names, self._module(**given)), strict=True))
                for name, dtype in self._outputs.items():
                    if found[name].dtype != dtype:
                        message = f"output {name!r} is described as {dtype}, the module gives {found[name].dtype}"
                        raise StartupError("FormatMismatch", message)
                # Here, as what fails on a device is told when its results are asked for.
                return {name: to_array(tensor) for name, tensor in found.items()}
        except torch.AcceleratorError as error:
            # CUDA remembers: after a failed kernel every later call of this process fails too.
            print(f"the device broke: {one_line(error)}", flush=True)
            raise SystemExit(1) from error


@contextmanager
def _memory() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise StartupError("OutOfMemory", f"it needs more memory than there is: {one_line(error)}") from error


def _with_twins(weights: dict[str, torch.Tensor], module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What the module has under several names is in such a file under one of them."""
    twins = defaultdict(list)
    for name, weight in module.state_dict(keep_vars=True).items():
        twins[id(weight)].append(name)
    for names in twins.values():
        for there in [name for name in names if name in weights][:1]:
            weights = {**dict.fromkeys(names, weights[there]), **weights}
    return weights


def _found(path: str) -> Any:
    place, _, name = path.partition(":")
    try:
        found: Any = importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{place}.".startswith(f"{error.name}."):
            raise  # it is there, and lacks something itself
        message = f"module {place} is neither beside {FILE} nor in the image: put {place}.py there"
        raise StartupError("FormatMismatch", message) from error
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise StartupError("FormatMismatch", f"module {place} has no {name} that could be called")
    return found
