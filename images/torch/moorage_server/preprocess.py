"""What `moorage.yaml` says is to be made of a request's bytes before they are a model's tensors:
pictures, texts and sound.

`preprocess: {INPUT: {type: Image | Text | Audio, from: NAME, …}}` makes the program's INPUT out of an input NAME of
BYTES (by default of the same name), one value a row. Sizes and datatypes are those of the program's input. Called off
the loop, in any thread; knows neither torch nor HTTP. An error of the description is a StartupError when the model is
loaded, one of a value a BadRequest that says which.
"""

import io
import math
import wave
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image
from tokenizers import Tokenizer

from .failures import StartupError
from .protocol import BadRequest
from .signature import ARRAYS, BYTES, Array, Signature, TensorSpec

MOST_PIXELS = 50_000_000
"""Of a picture before it is made small: a file of a few hundred bytes may claim to be of any size."""
_MODES = {1: "L", 3: "RGB"}
_RESIZES = ("Stretch", "Crop")
_LAYOUTS = ("CHW", "HWC")
_LONGEST_TEXT = 512
_WIDTHS: dict[int, np.dtype[Any]] = {1: np.dtype(np.uint8), 2: np.dtype("<i2"), 4: np.dtype("<i4")}


class Step(Protocol):
    """Makes one input of the program, or several, by name."""

    @property
    def source(self) -> str: ...
    @property
    def spec(self) -> TensorSpec: ...
    def __call__(self, values: Sequence[bytes]) -> dict[str, Array]:
        """Raises ValueError, whose words follow those that say which input it was."""


@dataclass(frozen=True)
class Preprocess:
    signature: Signature
    """As clients see it."""
    steps: tuple[Step, ...]
    inner: Signature
    """The program's own."""

    def __call__(self, inputs: Sequence[Array]) -> list[Array]:
        """The program's inputs, in its order. Raises BadRequest."""
        given = dict(zip((spec.name for spec in self.signature.inputs), inputs, strict=True))
        made: dict[str, Array] = {}
        for step in self.steps:
            try:
                made |= step(list(given[step.source].reshape(-1)))
            except ValueError as error:
                raise BadRequest(f"input {step.source!r}: {error}") from None
        return [made[spec.name] if spec.name in made else given[spec.name] for spec in self.inner.inputs]


def of(described: Mapping[str, Any], inner: Signature, folder: Path) -> Preprocess | None:
    """Of `preprocess` in a description; None where there is nothing to do. Raises StartupError."""
    if not described:
        return None
    specs = {spec.name: spec for spec in inner.inputs}
    steps: list[Step] = []
    made: dict[str, str] = {}
    for name, entry in described.items():
        if name not in specs:
            raise _bad(f"{name!r} is no input of the model; it has {', '.join(specs)}")
        where = f"preprocess.{name}"
        if not isinstance(entry, dict) or entry.get("type") not in _KINDS:
            raise _bad(f"{where} must have a type: {', '.join(_KINDS)}")
        kind, known = _KINDS[entry["type"]]
        if unknown := sorted(entry.keys() - {"type", "from", *known}):
            raise _bad(f"{where} has {', '.join(unknown)}; {entry['type']} knows from, {', '.join(known)}")
        source = entry.get("from", name)
        if not isinstance(source, str) or not source:
            raise _bad(f"{where}.from must be the name of an input")
        step, outputs = kind(where, source, specs[name], entry, specs, folder)
        steps.append(step)
        for output in outputs:
            if output in made:
                raise _bad(f"{where} makes {output!r}, which preprocess.{made[output]} makes too")
            made[output] = name
    sources = {step.source: step.spec for step in steps}
    if clash := sorted(sources.keys() & (specs.keys() - made.keys())):
        raise _bad(f"{clash[0]!r} is an input of the model that nothing makes: give its bytes another name")
    outer = tuple(spec for spec in inner.inputs if spec.name not in made)
    outer += tuple(TensorSpec(name, BYTES, spec.dims[:1]) for name, spec in sources.items())
    return Preprocess(Signature(outer, inner.outputs), tuple(steps), inner)


# Pictures: whatever Pillow reads, to numbers.


@dataclass(frozen=True)
class Picture:
    source: str
    spec: TensorSpec
    layout: str
    crop: bool
    mean: Array
    std: Array

    def __call__(self, values: Sequence[bytes]) -> dict[str, Array]:
        return {self.spec.name: np.stack([self._one(i, value) for i, value in enumerate(values)])}

    def _one(self, i: int, value: bytes) -> Array:
        sizes = [dim.size for dim in self.spec.dims[1:]]
        channels, height, width = sizes if self.layout == "CHW" else (sizes[2], *sizes[:2])
        try:
            with Image.open(io.BytesIO(value)) as picture:
                if picture.width * picture.height > MOST_PIXELS:
                    raise ValueError(
                        f"value {i} has {picture.width} x {picture.height} pixels; {MOST_PIXELS} are the most"
                    )
                # JPEG can be read small at once.
                picture.draft(_MODES[channels], (width, height))
                plain = picture.convert(_MODES[channels])
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"value {i} is no picture that can be read: {_short(error)}") from None
        array: Array = np.asarray(_resized(plain, width, height, crop=self.crop)).reshape(height, width, channels)
        want = ARRAYS[self.spec.datatype]
        if want.kind == "f":
            array = ((array.astype(np.float32) / 255 - self.mean) / self.std).astype(want)
        return np.ascontiguousarray(array.transpose(2, 0, 1)) if self.layout == "CHW" else array


def _picture(
    where: str, source: str, spec: TensorSpec, entry: Mapping[str, Any], specs: Mapping[str, TensorSpec], folder: Path
) -> tuple[Step, list[str]]:
    layout = _choice(entry, "layout", _LAYOUTS, where)
    sizes = [dim.size for dim in spec.dims[1:]]
    if len(sizes) != 3 or any(size < 0 for size in sizes):
        raise _bad(f"{where}: input {spec} must have a row of three fixed sizes, {', '.join(layout)}")
    channels = sizes[0] if layout == "CHW" else sizes[2]
    if channels not in _MODES:
        raise _bad(f"{where}: input {spec} has {channels} channels in layout {layout}; a picture has 1 or 3")
    if ARRAYS[spec.datatype].kind != "f" and spec.datatype != "UINT8":
        raise _bad(f"{where}: input {spec} must be UINT8, for 0 to 255, or floating")
    if spec.datatype == "UINT8" and ("mean" in entry or "std" in entry):
        raise _bad(f"{where}: mean and std are for floating numbers, input {spec} is UINT8")
    mean, std = (_numbers(entry, name, default, channels, where) for name, default in (("mean", 0.0), ("std", 1.0)))
    if (std == 0).any():
        raise _bad(f"{where}.std must not be 0")
    crop = _choice(entry, "resize", _RESIZES, where) == "Crop"
    return Picture(source, spec, layout, crop, mean, std), [spec.name]


def _resized(picture: Image.Image, width: int, height: int, *, crop: bool) -> Image.Image:
    if not crop:
        return picture.resize((width, height), Image.Resampling.BILINEAR)
    # The middle of it, as large as the form allows.
    scale = min(picture.width / width, picture.height / height)
    wide, high = width * scale, height * scale
    left, top = (picture.width - wide) / 2, (picture.height - high) / 2
    box = (left, top, left + wide, top + high)
    return picture.resize((width, height), Image.Resampling.BILINEAR, box=box)


# Texts: to the numbers of a tokenizer that lies beside the model.


@dataclass(frozen=True)
class Tokens:
    source: str
    spec: TensorSpec
    mask: TensorSpec | None
    tokenizer: Tokenizer
    """Cuts what is too long."""
    padding: int

    def __call__(self, values: Sequence[bytes]) -> dict[str, Array]:
        texts = []
        for i, value in enumerate(values):
            try:
                texts.append(value.decode())
            except UnicodeDecodeError as error:
                raise ValueError(f"value {i} is no UTF-8: {error.reason} at byte {error.start}") from None
        found = [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]
        size = self.spec.dims[1]
        length = max(size.low, 1, *(len(ids) for ids in found)) if size.dynamic else size.size
        ids = np.full((len(found), length), self.padding, ARRAYS[self.spec.datatype])
        known = np.zeros((len(found), length), bool)
        for row, one in enumerate(found):
            ids[row, : len(one)] = one
            known[row, : len(one)] = True
        made: dict[str, Array] = {self.spec.name: ids}
        if self.mask is not None:
            made[self.mask.name] = known.astype(ARRAYS[self.mask.datatype])
        return made


def _tokens(
    where: str, source: str, spec: TensorSpec, entry: Mapping[str, Any], specs: Mapping[str, TensorSpec], folder: Path
) -> tuple[Step, list[str]]:
    if len(spec.dims) != 2 or ARRAYS[spec.datatype].kind not in "iu":
        raise _bad(f"{where}: input {spec} must be of integers, in rows of tokens")
    name = entry.get("tokenizer", "tokenizer.json")
    file = folder / str(name)
    if not isinstance(name, str) or file.resolve().parent != folder.resolve() or not file.is_file():
        raise _bad(
            f"{where}.tokenizer is {name!r}; it must be a file of the model's folder, as tokenizers.Tokenizer saves it"
        )
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library's own is a plain one
        raise _bad(f"{where}.tokenizer: {name} cannot be read: {_short(error)}") from None
    size = spec.dims[1]
    most = int(min(size.high, _LONGEST_TEXT)) if size.dynamic else size.size
    if size.dynamic:
        most = _integer(entry, "maxLength", most, 1, int(min(size.high, 1 << 20)), where)
    elif "maxLength" in entry:
        raise _bad(f"{where}: input {spec} has its length; leave maxLength out")
    padding = tokenizer.padding["pad_id"] if tokenizer.padding else _integer(entry, "padding", 0, 0, 1 << 31, where)
    tokenizer.no_padding()
    tokenizer.enable_truncation(most)
    mask = None
    if "mask" in entry:
        mask = specs.get(str(entry["mask"]))
        if mask is None or len(mask.dims) != 2 or mask.name == spec.name:
            raise _bad(f"{where}.mask is {entry['mask']!r}; it must be another input of the model, of the same shape")
    return Tokens(source, spec, mask, tokenizer, padding), [spec.name, *([mask.name] if mask else [])]


# Sound: WAV to numbers from -1 to 1, its channels as one.


@dataclass(frozen=True)
class Sound:
    source: str
    spec: TensorSpec
    rate: int

    def __call__(self, values: Sequence[bytes]) -> dict[str, Array]:
        found = [self._one(i, value) for i, value in enumerate(values)]
        size = self.spec.dims[1]
        length = max(size.low, *(len(one) for one in found)) if size.dynamic else size.size
        if length > size.high:
            raise ValueError(f"a value has {length} samples; the model takes {size.high:.0f} at most")
        samples = np.zeros((len(found), length), ARRAYS[self.spec.datatype])
        for row, one in enumerate(found):
            samples[row, : len(one)] = one[:length]
        return {self.spec.name: samples}

    def _one(self, i: int, value: bytes) -> Array:
        try:
            with wave.open(io.BytesIO(value)) as sound:
                rate, width, channels = sound.getframerate(), sound.getsampwidth(), sound.getnchannels()
                content = sound.readframes(sound.getnframes())
        except (wave.Error, EOFError, RuntimeError) as error:
            raise ValueError(f"value {i} is no WAV of plain samples: {_short(error)}") from None
        if rate != self.rate:
            raise ValueError(f"value {i} has {rate} samples a second; the model takes {self.rate}")
        if width not in _WIDTHS:
            raise ValueError(f"value {i} has samples of {width} bytes; 1, 2 and 4 are known")
        samples = np.frombuffer(content[: len(content) // (width * channels) * width * channels], _WIDTHS[width])
        half = float(1 << (8 * width - 1))
        plain = (samples.astype(np.float32) - (half if width == 1 else 0)) / half
        mono: Array = plain.reshape(-1, channels).mean(axis=1)
        return mono


def _sound(
    where: str, source: str, spec: TensorSpec, entry: Mapping[str, Any], specs: Mapping[str, TensorSpec], folder: Path
) -> tuple[Step, list[str]]:
    if len(spec.dims) != 2 or ARRAYS[spec.datatype].kind != "f":
        raise _bad(f"{where}: input {spec} must be of floating numbers, in rows of samples")
    return Sound(source, spec, _integer(entry, "sampleRate", 16_000, 1, 1 << 20, where)), [spec.name]


_KINDS = {
    "Image": (_picture, ("layout", "resize", "mean", "std")),
    "Text": (_tokens, ("tokenizer", "maxLength", "padding", "mask")),
    "Audio": (_sound, ("sampleRate",)),
}


# What a description may say.


def _choice(entry: Mapping[str, Any], name: str, choices: Sequence[str], where: str) -> str:
    value = entry.get(name, choices[0])
    if value not in choices:
        raise _bad(f"{where}.{name} is {value!r}; it may be {', '.join(choices)}")
    return str(value)


def _integer(entry: Mapping[str, Any], name: str, default: int, low: int, high: int, where: str) -> int:
    value = entry.get(name, default)
    if type(value) is not int or not low <= value <= high:
        raise _bad(f"{where}.{name} is {value!r}; it must be an integer from {low} to {high}")
    return value


def _numbers(entry: Mapping[str, Any], name: str, default: float, count: int, where: str) -> Array:
    value = entry.get(name, [default] * count)
    if not isinstance(value, list) or len(value) != count or any(type(one) not in (int, float) for one in value):
        raise _bad(f"{where}.{name} is {value!r}; it must be a list of {count} numbers, one a channel")
    if not all(map(math.isfinite, value)):
        raise _bad(f"{where}.{name} must be of finite numbers")
    return np.array(value, np.float32)


def _bad(words: str) -> StartupError:
    return StartupError("FormatMismatch", f"moorage.yaml, preprocess: {words}")


def _short(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
