"""The Open Inference Protocol's bodies to arrays and arrays to bodies, checked against a model's signature.

JSON, and with the binary tensor data extension also raw bytes behind it (little-endian, row-major; BF16 as its two
bytes, each of BYTES behind its length): some tensors or all, in requests and in answers. Pure: no I/O, no torch, no
HTTP. A request that does not fit is a `BadRequest` whose message names the tensor and says what was expected. In JSON a
NaN or an infinity is `null` in answers, for JSON has neither, and `null` is refused in requests; binary data may hold
both.
"""

import itertools
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from .signature import ARRAYS, BYTES, Array, Dim, Signature, TensorSpec

# Numbers too large for their type are looked for, and told to whom they come from; numpy's warnings reach nobody.
np.seterr(over="ignore")

HEADER_LENGTH = b"inference-header-content-length"
"""The header, in lower case, that says where the JSON ends and binary data begins."""

PRIORITY, LOWEST_PRIORITY = 5, 9
"""Of a request that does not say; 1 goes first, as in Triton's scheduling policy extension."""

_BINARY = "binary_data_size"


class BadRequest(Exception):
    """The client's mistake, in words for the client."""


@dataclass(slots=True)
class InferRequest:
    id: str
    inputs: list[Array]  # in the order of the signature
    outputs: Sequence[int]  # places in the signature, in the order asked for
    binary: frozenset[int]  # of these outputs, those that are wanted as binary data
    rows: int
    priority: int = PRIORITY
    timeout: float = math.inf
    """Seconds for which it may wait."""


def parse_request(body: bytes | bytearray, signature: Signature, header_length: bytes | None = None) -> InferRequest:
    """`header_length`: the value of that header, where it came."""
    binary = None
    if header_length is not None:
        size = _header_size(header_length, len(body))
        body, binary = body[:size], memoryview(body)[size:]
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    if not isinstance(request, dict) or not isinstance(request.get("inputs"), list):
        raise BadRequest('the body must be a JSON object with "inputs", a list of tensors')
    if not isinstance(id := request.get("id", ""), str):
        raise BadRequest('"id" must be a string')
    return infer_request(request, id, _inputs(request["inputs"], signature, binary), signature)


def infer_request(request: dict[str, Any], id: str, inputs: list[Array], signature: Signature) -> InferRequest:
    """Of its inputs and the rest of its JSON: `outputs` and `parameters`."""
    if signature.shared:
        check_symbols(inputs, signature)
    rows = inputs[0].shape[0] if signature.batch is not None else 1
    if "parameters" not in request:
        return InferRequest(id, inputs, *_wanted(request.get("outputs"), signature, False), rows)
    all_binary = _flag(request, "the request", "binary_data_output", False)
    priority = _number(request, "priority", LOWEST_PRIORITY) or PRIORITY
    microseconds = _number(request, "timeout", _LONGEST)
    timeout = microseconds / 1e6 if microseconds else math.inf
    return InferRequest(id, inputs, *_wanted(request.get("outputs"), signature, all_binary), rows, priority, timeout)


def wants_only_ready(body: bytes | bytearray) -> bool:
    """Of a repository index."""
    try:
        asked = orjson.loads(body or b"{}")
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    return isinstance(asked, dict) and bool(asked.get("ready"))


def _header_size(value: bytes, body: int) -> int:
    if value == b"0":
        raise BadRequest("raw binary requests are not supported: say in JSON before the data what it is")
    if not value.isdigit() or len(value) > 18 or int(value) > body:
        said = value[:40].decode("latin-1")
        raise BadRequest(f"Inference-Header-Content-Length is {said!r}; the body has {body} bytes, JSON first")
    return int(value)


def _inputs(entries: list[Any], signature: Signature, binary: memoryview | None) -> list[Array]:
    named: dict[str, dict[str, Any]] = {}
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(name := entry.get("name"), str):
            raise BadRequest(f"inputs[{i}] must be an object with a name, a datatype, a shape and data")
        if name in named:
            raise BadRequest(f"input {_quote(name)} is given twice")
        named[name] = entry
    check_names(named, signature)
    raw = {} if binary is None else _raw(named, binary)
    return [_tensor(named[spec.name], spec, raw.get(spec.name)) for spec in signature.inputs]


def check_names(named: Collection[str], signature: Signature) -> None:
    if set(named) != signature.input_names:
        if unknown := [name for name in named if name not in signature.input_names]:
            raise BadRequest(f"the model has no input {_quote(unknown[0])}; it takes {_listing(signature.inputs)}")
        raise BadRequest(f"input {next(spec for spec in signature.inputs if spec.name not in named)} is missing")


def _raw(named: dict[str, dict[str, Any]], binary: memoryview) -> dict[str, memoryview]:
    """Each input's part of the binary data, which has them in the order of the request."""
    raw, at = {}, 0
    for name, entry in named.items():
        size = _parameters(entry, f"input {_quote(name)}").get(_BINARY)
        if size is None:
            continue
        if type(size) is not int or size < 0:
            raise BadRequest(f"input {_quote(name)}: its {_BINARY} is {_quote(size)}; it must be a number of bytes")
        if size > len(binary) - at:
            raise BadRequest(f"input {_quote(name)}: its {_BINARY} is {size}, the body has {len(binary) - at} more")
        raw[name] = binary[at : at + size]
        at += size
    if at != len(binary):
        raise BadRequest(f"the body has {len(binary) - at} bytes of binary data more than its inputs say")
    return raw


def _tensor(entry: dict[str, Any], spec: TensorSpec, raw: memoryview | None) -> Array:
    shape = checked_shape(entry.get("datatype"), entry.get("shape"), spec)
    if raw is not None:
        if "data" in entry:
            raise BadRequest(f'{_what(spec)} has "data" and binary data: send one of them')
        return of_bytes(raw, shape, spec)
    if "data" not in entry:
        if _BINARY in _parameters(entry, _what(spec)):
            raise BadRequest(
                f"{_what(spec)} is sent as binary data: say where it begins (Inference-Header-Content-Length)"
            )
        raise BadRequest(f'{_what(spec)} has no "data"')
    if not isinstance(entry["data"], list):
        raise BadRequest(f'{_what(spec)}: "data" must be a list of {spec.datatype} values')
    return _of_list(entry["data"], shape, spec)


def checked_shape(datatype: Any, shape: Any, spec: TensorSpec) -> list[int]:
    if datatype != spec.datatype:
        raise BadRequest(f"{_what(spec)} has datatype {_quote(datatype)}, the model takes {spec.datatype}")
    if not isinstance(shape, list) or not _fits(shape, spec.dims):
        raise BadRequest(_misfit(shape, spec))
    return shape


def _what(spec: TensorSpec) -> str:
    return f"input {spec.name!r}"


def _fits(shape: list[Any], dims: Sequence[Dim]) -> bool:
    if len(shape) != len(dims):
        return False
    for size, dim in zip(shape, dims, strict=True):
        if type(size) is not int or not (dim.low <= size <= dim.high if dim.size < 0 else size == dim.size):
            return False
    return True


def _misfit(shape: Any, spec: TensorSpec) -> str:
    if not isinstance(shape, list) or not all(type(size) is int for size in shape):
        return f"{_what(spec)} has shape {_quote(shape)}; it must be a list of integers that fits {spec.shape}"
    return f"{_what(spec)} has shape {_quote(shape)}, the model takes {_shape(spec)}"


_NUMBERS, _INTEGERS = frozenset((int, float)), frozenset((int,))
# Above the squares of all that such an array can hold.
_SQUARES = {np.dtype(kind): float(np.finfo(kind).max) ** 2 for kind in (np.float16, np.float32)}


def _of_list(data: list[Any], shape: list[int], spec: TensorSpec) -> Array:
    want = ARRAYS[spec.datatype]
    if spec.datatype == BYTES:
        return _texts(data, shape, spec)
    array = _plain(data, want) if len(data) == math.prod(shape) else None
    return _checked(data, shape, spec, want) if array is None else array.reshape(shape)


def _plain(data: list[Any], want: np.dtype[Any]) -> Array | None:
    """What nearly every request is: numbers in one list, as large as they may be. None: look closer."""
    types = set(map(type, data))
    try:
        if want.kind == "f" and types <= _NUMBERS:
            array = np.array(data, np.float64)
            # One pass says that all are finite and none is too large for its type.
            if array.dot(array) < _SQUARES.get(want, math.inf):
                return array.astype(want, copy=False)
        elif want == np.int64 and types == _INTEGERS:
            return np.array(data, np.int64)
    except OverflowError:
        pass
    return None


def _texts(data: list[Any], shape: list[int], spec: TensorSpec) -> Array:
    flat = data
    while flat and all(isinstance(one, list) for one in flat):
        flat = list(itertools.chain.from_iterable(flat))
    if not all(isinstance(one, str) for one in flat):
        raise BadRequest(f"{_what(spec)}: its data must be texts, and nothing else; other bytes go as binary data")
    return of_texts([one.encode() for one in flat], shape, spec)


def of_texts(texts: Sequence[bytes], shape: list[int], spec: TensorSpec) -> Array:
    """An array of BYTES."""
    if len(texts) != math.prod(shape):
        raise BadRequest(f"{_what(spec)}: its data has {len(texts)} values, the shape {shape} needs {math.prod(shape)}")
    array = np.empty(len(texts), ARRAYS[BYTES])
    array[:] = texts
    return array.reshape(shape)


def _checked(data: list[Any], shape: list[int], spec: TensorSpec, want: np.dtype[Any]) -> Array:
    try:
        array = _parsed(data, want)
    except ValueError:
        raise BadRequest(f"{_what(spec)}: the lists in its data have unequal lengths") from None
    except TypeError:
        words = f"must be {_WORDS[want.kind]} that fit {spec.datatype}, and nothing else"
        raise BadRequest(f"{_what(spec)}: its data {words}") from None
    size = array.size
    if size != math.prod(shape) or (array.ndim != 1 and list(array.shape) != shape):
        got = list(array.shape) if array.ndim != 1 else f"{size} values"
        needs = f"the shape {shape} needs {math.prod(shape)}, flat or nested alike"
        raise BadRequest(f"{_what(spec)}: its data has {got}, {needs}")
    if want.kind in "iu" and size:
        bounds = np.iinfo(want)
        if int(array.min()) < bounds.min or int(array.max()) > bounds.max:
            words = f"goes beyond {spec.datatype}, which is {bounds.min} to {bounds.max}"
            raise BadRequest(f"{_what(spec)}: its data {words}")
    cast = array.astype(want).reshape(shape)
    if want.kind == "f" and not np.isfinite(cast).all():
        raise BadRequest(f"{_what(spec)}: its data goes beyond {spec.datatype}")
    return cast


# What JSON's values may be on their way to an array of this kind.
_TYPES: dict[str, set[type]] = {"b": {bool}, "f": {int, float}, "i": {int}, "u": {int}}
_WORDS = {"b": "true and false", "f": "numbers", "i": "integers", "u": "integers"}


def _parsed(data: list[Any], want: np.dtype[Any]) -> Array:
    """Raises TypeError for values of another type, and ValueError for lists of unequal lengths."""
    # Before numpy sees it: a text among numbers would make it as large as the longest, times their number.
    level, types = data, set(map(type, data))
    while types == {list}:
        level = list(itertools.chain.from_iterable(level))
        types = set(map(type, level))
    if list in types:
        raise ValueError
    if not types <= _TYPES[want.kind]:
        raise TypeError
    array: Array = np.array(data)
    if array.dtype.kind == "f" and want.kind in "iu" and level:
        # Of 0 beside 2**63 numpy makes floats: it looks for one type, and finds none for the small and the large.
        return np.array(data, dtype=np.uint64 if min(level) >= 0 else object)
    return array


_LITTLE_ENDIAN = {name: want.newbyteorder("<") for name, want in ARRAYS.items()}


def of_bytes(raw: memoryview | bytes, shape: list[int], spec: TensorSpec) -> Array:
    """Where they can be, the bytes themselves: not to be written to."""
    if spec.datatype == BYTES:
        return of_texts(_split(raw, spec), shape, spec)
    if len(raw) != (size := math.prod(shape) * _width(spec)):
        raise BadRequest(f"{_what(spec)}: its binary data has {len(raw)} bytes, {spec.datatype} {shape} needs {size}")
    if spec.datatype == "BF16":
        wide = np.frombuffer(raw, "<u2").astype(np.uint32) << 16
        return wide.view(np.float32).reshape(shape)
    want = ARRAYS[spec.datatype]
    if want.kind == "b" and (np.frombuffer(raw, np.uint8) > 1).any():
        raise BadRequest(f"{_what(spec)}: its binary data must be bytes of 0 and 1")
    return np.frombuffer(raw, _LITTLE_ENDIAN[spec.datatype]).astype(want, copy=False).reshape(shape)


def _split(raw: memoryview | bytes, spec: TensorSpec) -> list[bytes]:
    """Each behind its length, a number of four bytes."""
    found: list[bytes] = []
    at = 0
    while at < len(raw):
        begin = at + 4
        at = begin + int.from_bytes(raw[at:begin], "little")
        if begin > len(raw) or at > len(raw):
            raise BadRequest(f"{_what(spec)}: its binary data ends within value {len(found)}")
        found.append(bytes(raw[begin:at]))
    return found


def _width(spec: TensorSpec) -> int:
    """Bytes of a value on the wire."""
    return 2 if spec.datatype == "BF16" else ARRAYS[spec.datatype].itemsize


def check_symbols(inputs: list[Array], signature: Signature) -> None:
    seen: dict[str, tuple[int, str]] = {}
    for spec, array in zip(signature.inputs, inputs, strict=True):
        for i, (dim, size) in enumerate(zip(spec.dims, array.shape, strict=True)):
            if not dim.dynamic or dim.symbol not in signature.shared:
                continue
            first, where = seen.setdefault(dim.symbol, (size, f"dimension {i} of {spec.name!r}"))
            if first != size:
                raise BadRequest(f"dimension {i} of {spec.name!r} is {size}, {where} is {first}: they must be equal")


_NONE: frozenset[int] = frozenset()


def _wanted(outputs: Any, signature: Signature, all_binary: bool) -> tuple[Sequence[int], frozenset[int]]:
    if not outputs:
        everything = range(len(signature.outputs))
        return everything, frozenset(everything) if all_binary else _NONE
    places = {spec.name: i for i, spec in enumerate(signature.outputs)}
    if not isinstance(outputs, list):
        raise BadRequest('"outputs" must be a list of objects with a name')
    wanted: dict[str, int] = {}
    binary = set()
    for i, output in enumerate(outputs):
        if not isinstance(output, dict) or not isinstance(name := output.get("name"), str):
            raise BadRequest(f"outputs[{i}] must be an object with a name")
        if name not in places:
            raise BadRequest(f"the model has no output {_quote(name)}; it gives {_listing(signature.outputs)}")
        parameters = _parameters(output, f"output {name!r}")
        if parameters.get("classification"):
            raise BadRequest(f"output {name!r}: the classification extension is not supported")
        wanted[name] = places[name]
        if _flag(output, f"output {name!r}", "binary_data", all_binary):
            binary.add(places[name])
        else:
            binary.discard(places[name])
    return list(wanted.values()), frozenset(binary)


def _parameters(entry: dict[str, Any], what: str) -> dict[str, Any]:
    parameters = entry.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise BadRequest(f'{what}: "parameters" must be an object')
    return parameters


def _flag(entry: dict[str, Any], what: str, name: str, default: bool) -> bool:
    value = _parameters(entry, what).get(name, default)
    if not isinstance(value, bool):
        raise BadRequest(f"{what}: its {name} is {_quote(value)}; it must be true or false")
    return value


_LONGEST = 86_400_000_000  # microseconds of a day


def _number(request: dict[str, Any], name: str, most: int) -> int:
    """0 where it is not said: so Triton has it, too."""
    value = _parameters(request, "the request").get(name, 0)
    if type(value) is not int or not 0 <= value <= most:
        raise BadRequest(f"the request: its {name} is {_quote(value)}; it must be an integer from 0 to {most}")
    return value


def answer(
    model: str, version: str, request: InferRequest, outputs: Sequence[Array], signature: Signature
) -> tuple[bytes, int | None]:
    """The body, and where its binary data begins if it has any. `outputs` are in the order of the signature."""
    body: dict[str, Any] = {"model_name": model, "model_version": version}
    if request.id:
        body["id"] = request.id
    if not request.binary:
        body["outputs"] = [_output(signature.outputs[i], outputs[i]) for i in request.outputs]
        return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY), None
    told, raw = [], []
    for i in request.outputs:
        spec, array = signature.outputs[i], outputs[i]
        if i in request.binary:
            raw.append(to_bytes(spec, array))
            told.append(
                {
                    "name": spec.name,
                    "datatype": spec.datatype,
                    "shape": array.shape,
                    "parameters": {_BINARY: len(raw[-1])},
                }
            )
        else:
            told.append(_output(spec, array))
    body["outputs"] = told
    header = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"".join((header, *raw)), len(header)


def _output(spec: TensorSpec, array: Array) -> dict[str, Any]:
    data = array.reshape(-1) if spec.datatype != BYTES else [_text(one, spec) for one in array.reshape(-1)]
    return {"name": spec.name, "datatype": spec.datatype, "shape": array.shape, "data": data}


def _text(value: bytes, spec: TensorSpec) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise BadRequest(f"output {spec.name!r} is no text, which JSON cannot say: ask for it as binary data") from None


def to_bytes(spec: TensorSpec, array: Array) -> bytes:
    if spec.datatype == BYTES:
        return b"".join(part for one in array.reshape(-1) for part in (len(one).to_bytes(4, "little"), one))
    if spec.datatype == "BF16":
        return (np.ascontiguousarray(array, np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def metadata(model: str, version: str, platform: str, signature: Signature) -> dict[str, Any]:
    return {
        "name": model,
        "versions": [version],
        "platform": platform,
        "inputs": [_described(spec) for spec in signature.inputs],
        "outputs": [_described(spec) for spec in signature.outputs],
    }


def _described(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": spec.shape}


def _shape(spec: TensorSpec) -> str:
    bounds = [
        f"dimension {i} from {dim.low} to {dim.high}" if dim.high < math.inf else f"dimension {i} from {dim.low}"
        for i, dim in enumerate(spec.dims)
        if dim.dynamic
    ]
    return f"{spec.shape}" + (f" ({', '.join(bounds)})" if bounds else "")


def _listing(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(str(spec) for spec in specs)


def _quote(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
