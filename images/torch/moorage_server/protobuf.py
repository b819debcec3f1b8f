"""The messages of the Open Inference Protocol's gRPC service, and its tensors to arrays and back.

The table below is the protocol's, field by field: https://github.com/kserve/open-inference-protocol. Made into classes
in a pool of its own, so that a client's classes of the same names may be in the process, too.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from . import protocol
from .protocol import BadRequest, InferRequest
from .signature import ARRAYS, BYTES, Array, Signature, TensorSpec

SERVICE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"

_PARAMETERS = "map InferParameter"
# Fields with their numbers; "*" in front of a type: many of them.
_MESSAGES: dict[str, dict[str, dict[str, tuple[int, str]]]] = {
    "inference": {
        "ServerLiveRequest": {},
        "ServerLiveResponse": {"live": (1, "bool")},
        "ServerReadyRequest": {},
        "ServerReadyResponse": {"ready": (1, "bool")},
        "ModelReadyRequest": {"name": (1, "string"), "version": (2, "string")},
        "ModelReadyResponse": {"ready": (1, "bool")},
        "ServerMetadataRequest": {},
        "ServerMetadataResponse": {"name": (1, "string"), "version": (2, "string"), "extensions": (3, "*string")},
        "ModelMetadataRequest": {"name": (1, "string"), "version": (2, "string")},
        "ModelMetadataResponse": {
            "name": (1, "string"),
            "versions": (2, "*string"),
            "platform": (3, "string"),
            "inputs": (4, "*ModelMetadataResponse.TensorMetadata"),
            "outputs": (5, "*ModelMetadataResponse.TensorMetadata"),
        },
        "ModelMetadataResponse.TensorMetadata": {
            "name": (1, "string"),
            "datatype": (2, "string"),
            "shape": (3, "*int64"),
        },
        "RepositoryIndexRequest": {"repository_name": (1, "string"), "ready": (2, "bool")},
        "RepositoryIndexResponse": {"models": (1, "*RepositoryIndexResponse.ModelIndex")},
        "RepositoryIndexResponse.ModelIndex": {
            "name": (1, "string"),
            "version": (2, "string"),
            "state": (3, "string"),
            "reason": (4, "string"),
        },
        "RepositoryModelLoadRequest": {"repository_name": (1, "string"), "model_name": (2, "string")},
        "RepositoryModelLoadResponse": {},
        "RepositoryModelUnloadRequest": {"repository_name": (1, "string"), "model_name": (2, "string")},
        "RepositoryModelUnloadResponse": {},
        "InferParameter": {
            "bool_param": (1, "one bool"),
            "int64_param": (2, "one int64"),
            "string_param": (3, "one string"),
            "double_param": (4, "one double"),
            "uint64_param": (5, "one uint64"),
        },
        "InferTensorContents": {
            "bool_contents": (1, "*bool"),
            "int_contents": (2, "*int32"),
            "int64_contents": (3, "*int64"),
            "uint_contents": (4, "*uint32"),
            "uint64_contents": (5, "*uint64"),
            "fp32_contents": (6, "*float"),
            "fp64_contents": (7, "*double"),
            "bytes_contents": (8, "*bytes"),
        },
        "ModelInferRequest": {
            "model_name": (1, "string"),
            "model_version": (2, "string"),
            "id": (3, "string"),
            "parameters": (4, _PARAMETERS),
            "inputs": (5, "*ModelInferRequest.InferInputTensor"),
            "outputs": (6, "*ModelInferRequest.InferRequestedOutputTensor"),
            "raw_input_contents": (7, "*bytes"),
        },
        "ModelInferRequest.InferInputTensor": {
            "name": (1, "string"),
            "datatype": (2, "string"),
            "shape": (3, "*int64"),
            "parameters": (4, _PARAMETERS),
            "contents": (5, "InferTensorContents"),
        },
        "ModelInferRequest.InferRequestedOutputTensor": {"name": (1, "string"), "parameters": (2, _PARAMETERS)},
        "ModelInferResponse": {
            "model_name": (1, "string"),
            "model_version": (2, "string"),
            "id": (3, "string"),
            "parameters": (4, _PARAMETERS),
            "outputs": (5, "*ModelInferResponse.InferOutputTensor"),
            "raw_output_contents": (6, "*bytes"),
        },
        "ModelInferResponse.InferOutputTensor": {
            "name": (1, "string"),
            "datatype": (2, "string"),
            "shape": (3, "*int64"),
            "parameters": (4, _PARAMETERS),
            "contents": (5, "InferTensorContents"),
        },
        "ModelStreamInferResponse": {"error_message": (1, "string"), "infer_response": (2, "ModelInferResponse")},
    },
    # Its status is an enum there, which travels as a number does.
    "grpc.health.v1": {
        "HealthCheckRequest": {"service": (1, "string")},
        "HealthCheckResponse": {"status": (1, "int32")},
    },
}

SERVING, NOT_SERVING = 1, 2
"""Of a HealthCheckResponse."""


def _classes() -> dict[str, Any]:
    pool = descriptor_pool.DescriptorPool()
    classes = {}
    for package, messages in _MESSAGES.items():
        file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
        made: dict[str, Any] = {}
        for name, fields in messages.items():  # whatever is nested comes after what it is nested in
            outer, _, own = name.rpartition(".")
            made[name] = (made[outer].nested_type if outer else file.message_type).add(name=own)
            for field, (tag, kind) in fields.items():
                _add_field(made[name], f".{package}.{name}", f".{package}.", field, tag, kind)
        pool.Add(file)
        for name in messages:
            classes[name] = message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
    return classes


def _add_field(made: Any, full: str, prefix: str, field: str, tag: int, kind: str) -> None:
    kinds = descriptor_pb2.FieldDescriptorProto
    added = made.field.add(name=field, number=tag, label=kinds.LABEL_OPTIONAL)
    if kind.startswith("map "):
        entry = f"{field.capitalize()}Entry"
        nested = made.nested_type.add(name=entry)
        nested.options.map_entry = True
        _add_field(nested, f"{full}.{entry}", prefix, "key", 1, "string")
        _add_field(nested, f"{full}.{entry}", prefix, "value", 2, kind.removeprefix("map "))
        added.label, added.type, added.type_name = kinds.LABEL_REPEATED, kinds.TYPE_MESSAGE, f"{full}.{entry}"
        return
    if kind.startswith("*"):
        added.label, kind = kinds.LABEL_REPEATED, kind.removeprefix("*")
    if kind.startswith("one "):
        if not made.oneof_decl:
            made.oneof_decl.add(name="parameter_choice")
        added.oneof_index, kind = 0, kind.removeprefix("one ")
    scalar = kinds.Type.DESCRIPTOR.values_by_name.get(f"TYPE_{kind.upper()}")
    if scalar is None:
        added.type, added.type_name = kinds.TYPE_MESSAGE, prefix + kind
    else:
        added.type = scalar.number


CLASSES: dict[str, Any] = _classes()
"""Message classes by their names."""


_MOST_TENSORS = 1024
_TENSOR_TAGS = (b"\x2a", b"\x32")  # of inputs and of outputs in a ModelInferRequest


def read(kind: str, message: bytes | bytearray) -> Any:
    """Raises BadRequest."""
    # Each takes two bytes here and forty in memory. The bytes may also be of values: then they are counted as what
    # they are.
    if kind == "ModelInferRequest" and sum(map(message.count, _TENSOR_TAGS)) > _MOST_TENSORS:
        _count_tensors(message)
    try:
        return CLASSES[kind].FromString(bytes(message))
    except DecodeError:
        raise BadRequest(f"the message is no {kind}") from None


def _count_tensors(message: bytes | bytearray) -> None:
    """Without reading them: from one field of the message to the next. What is no message is left to who reads it."""
    at, tensors = 0, 0
    while at < len(message) and tensors <= _MOST_TENSORS:
        tag, at = _varint(message, at)
        tensors += tag >> 3 in (5, 6)
        size, at = _varint(message, at)
        if tag & 7 == 2:
            at += size
        elif tag & 7:
            return
    if tensors > _MOST_TENSORS:
        raise BadRequest(f"the request has more than {_MOST_TENSORS} inputs and outputs")


def _varint(message: bytes | bytearray, at: int) -> tuple[int, int]:
    """A number of the wire format, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
    return value, at


def parse_request(request: Any, signature: Signature) -> InferRequest:
    """Of a ModelInferRequest. Raises BadRequest, as `protocol.parse_request` does."""
    raw = request.raw_input_contents
    named: dict[str, tuple[Any, bytes | None]] = {}
    for i, tensor in enumerate(request.inputs):
        if tensor.name in named:
            raise BadRequest(f"input {tensor.name!r} is given twice")
        if raw and tensor.HasField("contents"):
            raise BadRequest(f"input {tensor.name!r} has contents, and there are raw_input_contents: send one of them")
        named[tensor.name] = (tensor, raw[i] if i < len(raw) else None)
    protocol.check_names(named, signature)
    if raw and len(raw) != len(named):
        raise BadRequest(f"raw_input_contents has {len(raw)} entries, there are {len(named)} inputs")
    inputs = [_input(*named[spec.name], spec) for spec in signature.inputs]
    rest: dict[str, Any] = {}
    if request.outputs:
        rest["outputs"] = [{"name": o.name, "parameters": parameters(o.parameters)} for o in request.outputs]
    if request.parameters:
        rest["parameters"] = parameters(request.parameters)
    return protocol.infer_request(rest, request.id, inputs, signature)


def _input(tensor: Any, raw: bytes | None, spec: TensorSpec) -> Array:
    shape = protocol.checked_shape(tensor.datatype, list(tensor.shape), spec)
    if raw is not None:
        return protocol.of_bytes(raw, shape, spec)
    values = _values(tensor.contents, spec)
    if spec.datatype == BYTES:
        return protocol.of_texts(values, shape, spec)
    return protocol.of_bytes(_typed(values, spec), shape, spec)


# The field of InferTensorContents for each datatype; those of 16 bits have none.
_CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "INT64": "int64_contents", "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}  # fmt: skip


def _values(contents: Message, spec: TensorSpec) -> Sequence[Any]:
    field = _CONTENTS.get(spec.datatype)
    if others := [name.name for name, _ in contents.ListFields() if name.name != field]:
        expected = f"its values belong in {field}" if field else "it has to come in raw_input_contents"
        raise BadRequest(f"input {spec.name!r} is {spec.datatype} and has {others[0]}; {expected}")
    return getattr(contents, field) if field else []


def _typed(values: Sequence[Any], spec: TensorSpec) -> bytes:
    """As bytes, little-endian."""
    want = ARRAYS[spec.datatype]
    array = np.array(values, want if want.kind in "fb" or want.itemsize == 8 else np.int64)
    cast = array.astype(want.newbyteorder("<"))
    if want.kind in "iu" and (cast != array).any():
        bounds = np.iinfo(want)
        raise BadRequest(f"input {spec.name!r}: its data goes beyond {spec.datatype}: {bounds.min} to {bounds.max}")
    return cast.tobytes()


def parameters(given: Any) -> dict[str, Any]:
    found = {}
    for name, value in given.items():
        choice = value.WhichOneof("parameter_choice")
        found[name] = getattr(value, choice) if choice else None
    return found


def answer(model: str, version: str, request: InferRequest, outputs: Sequence[Array], signature: Signature) -> Any:
    """A ModelInferResponse, its tensors as bytes. `outputs` are in the order of the signature."""
    response = CLASSES["ModelInferResponse"](model_name=model, model_version=version, id=request.id)
    for i in request.outputs:
        spec, array = signature.outputs[i], outputs[i]
        response.outputs.add(name=spec.name, datatype=spec.datatype, shape=array.shape)
        response.raw_output_contents.append(protocol.to_bytes(spec, array))
    return response
