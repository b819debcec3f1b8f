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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image
from tokenizers import Tokenizer

from . import protocol
from .failures import StartupError
from .protocol import BadRequest
from .signature import ARRAYS, BYTES, Array, Signature, TensorSpec

MOST_PIXELS = 50_000_000
"""Of a request's pictures before they are made small: a file of a few hundred bytes may claim to be of any size."""
MOST_BYTES = 1 << 27
"""Of what a request becomes: rows of a few bytes may each become as many as the model takes."""
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Of pictures. Pillow knows more, of which some start other programs or are pictures within pictures."""
_MODES = {1: "L", 3: "RGB"}
_RESIZES = ("Stretch", "Crop")
_LAYOUTS = ("CHW", "HWC")
_LONGEST_TEXT = 512
_WIDTHS: dict[int, np.dtype[Any]] = {1: np.dtype(np.uint8), 2: np.dtype("<i2"), 4: np.dtype("<i4")}


class NotWanted(Exception):
    """Nobody waits for it any more."""


class Step(Protocol):
    """Makes one input of the program, or several, by name."""

    @property
    def source(self) -> str: ...
    @property
    def spec(self) -> TensorSpec: ...
    def __call__(self, values: Iterable[bytes], rows: int) -> dict[str, Array]:
        """`rows`: how many values there are. Raises ValueError, whose words follow those that say which input it
        was."""


@dataclass(frozen=True)
class Preprocess:
    signature: Signature
    """As clients see it."""
    steps: tuple[Step, ...]
    inner: Signature
    """The program's own."""

    def __call__(self, inputs: Sequence[Array], wanted: Callable[[], bool] = lambda: True) -> list[Array]:
        """The program's inputs, in its order. Raises BadRequest, and NotWanted: `wanted` is asked between values."""
        given = dict(zip((spec.name for spec in self.signature.inputs), inputs, strict=True))
        made: dict[str, Array] = {}
        for step in self.steps:
            try:
                values = given[step.source].reshape(-1)
                made |= step(_while(wanted, values), len(values))
            except ValueError as error:
                raise BadRequest(f"input {step.source!r}: {error}") from None
        arrays = [made[spec.name] if spec.name in made else given[spec.name] for spec in self.inner.inputs]
        for spec, array in zip(self.inner.inputs, arrays, strict=True):
            protocol.checked_shape(spec.datatype, list(array.shape), spec)
        if self.inner.shared:
            protocol.check_symbols(arrays, self.inner)
        return arrays


def _while(wanted: Callable[[], bool], values: Iterable[bytes]) -> Iterator[bytes]:
    for value in values:
        if not wanted():
            raise NotWanted
        yield value


def _empty(spec: TensorSpec, shape: tuple[int, ...], fill: int = 0) -> Array:
    """Raises ValueError where it would be too large."""
    size = math.prod(shape) * ARRAYS[spec.datatype].itemsize
    if size > MOST_BYTES:
        raise ValueError(f"its values make {size} bytes, {list(shape)} of {spec.datatype}; {MOST_BYTES} are the most")
    return np.full(shape, fill, ARRAYS[spec.datatype])


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

    def __call__(self, values: Iterable[bytes], rows: int) -> dict[str, Array]:
        sizes = [dim.size for dim in self.spec.dims[1:]]
        made, pixels = _empty(self.spec, (rows, *sizes)), 0
        for i, value in enumerate(values):
            made[i], more = self._one(i, value, MOST_PIXELS - pixels)
            pixels += more
        return {self.spec.name: made}

    def _one(self, i: int, value: bytes, most: int) -> tuple[Array, int]:
        """And of how many pixels it is made."""
        sizes = [dim.size for dim in self.spec.dims[1:]]
        channels, height, width = sizes if self.layout == "CHW" else (sizes[2], *sizes[:2])
        try:
            with Image.open(io.BytesIO(value), formats=FORMATS) as picture:
                pixels = picture.width * picture.height
                if pixels > most:
                    what = f"value {i} has {picture.width} x {picture.height} pixels"
                    raise ValueError(f"{what}; the pictures of a request may have {MOST_PIXELS}")
                if picture.mode.startswith(("I", "F")):
                    raise ValueError(f"value {i} has more than 8 bits a channel, which is not known")
                # JPEG can be read small at once.
                picture.draft(_MODES[channels], (width, height))
                plain = picture.convert(_MODES[channels])
        except (ValueError, MemoryError):
            raise
        except Exception as error:  # each format has its own
            raise ValueError(f"value {i} is no picture that can be read: {_short(error)}") from None
        array: Array = np.asarray(_resized(plain, width, height, crop=self.crop)).reshape(height, width, channels)
        if ARRAYS[self.spec.datatype].kind == "f":
            array = (array.astype(np.float32) / 255 - self.mean) / self.std
        return (array.transpose(2, 0, 1) if self.layout == "CHW" else array), pixels


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
    Image.init()  # all formats now, not in the first request's thread
    crop = _choice(entry, "resize", _RESIZES, where) == "Crop"
    return Picture(source, spec, layout, crop, mean, std), [spec.name]


def _resized(picture: Image.Image, width: int, height: int, *, crop: bool) -> Image.Image:
    if not crop:
        return picture.resize((width, height), Image.Resampling.BILINEAR)
    # The middle of it, as large as the form allows.
    scale = min(picture.width / width, picture.height / height)
    # Pillow takes no box that is larger by what rounding makes of it.
    wide, high = min(width * scale, picture.width), min(height * scale, picture.height)
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
    left: bool
    """It is filled up in front."""

    def __call__(self, values: Iterable[bytes], rows: int) -> dict[str, Array]:
        texts = []
        for i, value in enumerate(values):
            try:
                texts.append(value.decode())
            except UnicodeDecodeError as error:
                raise ValueError(f"value {i} is no UTF-8: {error.reason} at byte {error.start}") from None
        found = [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]
        size = self.spec.dims[1]
        length = max(size.low, 1, *(len(ids) for ids in found)) if size.dynamic else size.size
        made = {self.spec.name: _empty(self.spec, (rows, length), self.padding)}
        if self.mask is not None:
            made[self.mask.name] = _empty(self.mask, (rows, length))
        for row, ids in enumerate(found):
            place = slice(length - len(ids), length) if self.left else slice(0, len(ids))
            made[self.spec.name][row, place] = ids
            if self.mask is not None:
                made[self.mask.name][row, place] = 1
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
    own, cuts = tokenizer.padding or {}, tokenizer.truncation or {}
    largest = int(np.iinfo(ARRAYS[spec.datatype]).max)
    padding = _integer(entry, "padding", own.get("pad_id", 0), 0, largest, where)
    if tokenizer.get_vocab_size() > largest + 1:
        raise _bad(f"{where}: the tokenizer has {tokenizer.get_vocab_size()} numbers, which do not fit {spec}")
    tokenizer.no_padding()
    tokenizer.enable_truncation(most, direction=cuts.get("direction", "right"))
    mask = None
    if "mask" in entry:
        mask = specs.get(str(entry["mask"]))
        if mask is None or mask.shape != spec.shape or mask.name == spec.name:
            raise _bad(f"{where}.mask is {entry['mask']!r}; it must be another input of the model, of the same shape")
    left = own.get("direction") == "left"
    return Tokens(source, spec, mask, tokenizer, padding, left), [spec.name, *([mask.name] if mask else [])]


# Sound: WAV to numbers from -1 to 1, its channels as one.


@dataclass(frozen=True)
class Sound:
    source: str
    spec: TensorSpec
    rate: int

    def __call__(self, values: Iterable[bytes], rows: int) -> dict[str, Array]:
        found: list[Array] = []
        for i, value in enumerate(values):
            found.append(self._one(i, value, MOST_BYTES - sum(one.nbytes for one in found)))
        size = self.spec.dims[1]
        length = max(size.low, *(len(one) for one in found)) if size.dynamic else size.size
        if length > size.high:
            raise ValueError(f"a value has {length} samples; the model takes {size.high:.0f} at most")
        samples = _empty(self.spec, (rows, length))
        for row, one in enumerate(found):
            samples[row, : len(one)] = one[:length]
        return {self.spec.name: samples}

    def _one(self, i: int, value: bytes, most: int) -> Array:
        try:
            with wave.open(io.BytesIO(value)) as sound:
                rate, width, channels = sound.getframerate(), sound.getsampwidth(), sound.getnchannels()
                frames = min(sound.getnframes(), len(value))
                if frames * channels * 4 > most:
                    raise ValueError(f"value {i} and those before it are longer than {MOST_BYTES // 4} samples")
                content = sound.readframes(frames)
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
