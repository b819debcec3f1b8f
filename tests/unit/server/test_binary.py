"""The binary tensor data extension: raw bytes behind the JSON, in requests and answers, mixed as the client likes."""

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from tritonclient import http as triton

from moorage_server.protocol import BadRequest, InferRequest, answer, parse_request
from moorage_server.signature import ARRAYS, Array, Dim, Signature, TensorSpec

TWO = Signature(
    (TensorSpec("x", "FP32", (Dim(-1, "batch"), Dim(2))), TensorSpec("n", "INT64", (Dim(-1, "batch"),))),
    (TensorSpec("y", "FP32", (Dim(-1, "batch"),)), TensorSpec("b", "BF16", (Dim(-1, "batch"),))),
)
X, N = np.float32([[1, 2], [3, 4]]), np.int64([5, 6])


def parse(content: dict[str, Any], binary: bytes = b"", length: int | None = None, known: Signature = TWO) -> Any:
    header = orjson.dumps(content)
    return parse_request(header + binary, known, str(len(header) if length is None else length).encode())


def entry(name: str, datatype: str, shape: list[int], **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, **more}


def raw(size: int) -> dict[str, Any]:
    return {"parameters": {"binary_data_size": size}}


BOTH = [entry("x", "FP32", [2, 2], **raw(16)), entry("n", "INT64", [2], **raw(16))]


@pytest.mark.parametrize("order", [0, 1])
def test_binary_inputs_come_in_the_order_of_the_request(order: int) -> None:
    inputs, data = (BOTH, X.tobytes() + N.tobytes()) if not order else (BOTH[::-1], N.tobytes() + X.tobytes())
    asked = parse({"inputs": inputs}, data)
    np.testing.assert_array_equal(asked.inputs[0], X)
    np.testing.assert_array_equal(asked.inputs[1], N)


def test_some_as_json() -> None:
    asked = parse({"inputs": [entry("x", "FP32", [2, 2], data=[1, 2, 3, 4]), BOTH[1]]}, N.tobytes())
    np.testing.assert_array_equal(asked.inputs[0], X)
    np.testing.assert_array_equal(asked.inputs[1], N)


REFUSED: dict[str, tuple[list[dict[str, Any]], bytes, str]] = {
    "too short": (BOTH, X.tobytes() + b"1234", "input 'n': its binary_data_size is 16, the body has 4 more"),
    "too long": (BOTH, X.tobytes() + N.tobytes() + b"z", "1 bytes of binary data more than its inputs say"),
    "size and shape differ": (
        [entry("x", "FP32", [2, 2], **raw(12)), BOTH[1]],
        X.tobytes()[:12] + N.tobytes(),
        "input 'x': its binary data has 12 bytes, FP32 [2, 2] needs 16",
    ),
    "a negative size": (
        [entry("x", "FP32", [2, 2], **raw(-1)), BOTH[1]], b"", "size is -1; it must be a number of bytes"
    ),
    "a size that is none": (
        [entry("x", "FP32", [2, 2], parameters={"binary_data_size": "16"}), BOTH[1]], b"", "must be a number of bytes"
    ),
    "data twice": (
        [entry("x", "FP32", [2, 2], data=[1, 2, 3, 4], **raw(16)), BOTH[1]],
        X.tobytes() + N.tobytes(),
        "send one of them",
    ),
    "a wrong datatype": (
        [entry("x", "FP64", [2, 2], **raw(16)), BOTH[1]], X.tobytes() + N.tobytes(), "has datatype 'FP64'"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    inputs, data, words = REFUSED[case]
    with pytest.raises(BadRequest) as refused:
        parse({"inputs": inputs}, data)
    assert words in str(refused.value)


@pytest.mark.parametrize("length", [b"9999", b"-1", b"x", b"", b"9" * 30, "²".encode()])
def test_a_header_length_that_lies(length: bytes) -> None:
    with pytest.raises(BadRequest, match="Inference-Header-Content-Length is"):
        parse_request(b"{}", TWO, length)


def test_a_raw_request_is_refused_in_words() -> None:
    with pytest.raises(BadRequest, match="raw binary requests are not supported"):
        parse_request(X.tobytes(), TWO, b"0")


def test_of_an_output_named_twice_the_last_counts_and_flags_are_flags() -> None:
    twice = [{"name": "b", "parameters": {"binary_data": True}}, {"name": "b", "parameters": {"binary_data": False}}]
    assert parse({"inputs": BOTH, "outputs": twice}, X.tobytes() + N.tobytes()).binary == frozenset()
    with pytest.raises(BadRequest, match="its binary_data_output is 'false'; it must be true or false"):
        parse({"inputs": BOTH, "parameters": {"binary_data_output": "false"}}, X.tobytes() + N.tobytes())


def test_a_bool_is_a_byte_of_0_or_1() -> None:
    known = Signature((TensorSpec("x", "BOOL", (Dim(-1),)),), ())
    asked = parse({"inputs": [entry("x", "BOOL", [2], **raw(2))]}, b"\x00\x01", known=known)
    assert asked.inputs[0].tolist() == [False, True]
    with pytest.raises(BadRequest, match="bytes of 0 and 1"):
        parse({"inputs": [entry("x", "BOOL", [2], **raw(2))]}, b"\x00\x02", known=known)


def test_answers_as_asked() -> None:
    outputs: list[Array] = [np.float32([0.5, np.nan]), np.float32([1.5, -2])]
    asked = parse(
        {"inputs": BOTH, "outputs": [{"name": "b", "parameters": {"binary_data": True}}, {"name": "y"}]},
        X.tobytes() + N.tobytes(),
    )
    body, header = answer("m", "1", asked, outputs, TWO)
    assert header is not None
    assert orjson.loads(body[:header])["outputs"] == [
        {"name": "b", "datatype": "BF16", "shape": [2], "parameters": {"binary_data_size": 4}},
        {"name": "y", "datatype": "FP32", "shape": [2], "data": [0.5, None]},
    ]
    assert body[header:] == b"\xc0\x3f\x00\xc0", "1.5 and -2 as bfloat16"


@pytest.mark.parametrize(
    ("parameters", "outputs", "expected"),
    [
        ({}, None, frozenset()),
        ({"binary_data_output": True}, None, frozenset({0, 1})),
        ({"binary_data_output": True}, [{"name": "b"}], frozenset({1})),
        ({"binary_data_output": True}, [{"name": "b", "parameters": {"binary_data": False}}], frozenset()),
    ],
)
def test_which_outputs(parameters: dict[str, Any], outputs: Any, expected: frozenset[int]) -> None:
    content = {"inputs": BOTH, "parameters": parameters, "outputs": outputs}
    assert parse(content, X.tobytes() + N.tobytes()).binary == expected


@settings(max_examples=200, deadline=None)
@given(datatype=st.sampled_from(sorted(set(ARRAYS) - {"BF16", "BYTES"})), data=st.data())
def test_every_value_of_every_datatype_goes_both_ways(datatype: str, data: st.DataObject) -> None:
    """Encoded and decoded by the official client, NaN and infinity too."""
    sent = data.draw(st_numpy.arrays(ARRAYS[datatype], st_numpy.array_shapes(max_dims=3, max_side=4)))
    known = Signature((TensorSpec("x", datatype, tuple(Dim(-1) for _ in sent.shape)),), ())
    known = Signature(known.inputs, (TensorSpec("y", datatype, known.inputs[0].dims),))
    tensor = triton.InferInput("x", list(sent.shape), datatype)
    tensor.set_data_from_numpy(sent, binary_data=True)
    body, length = triton.InferenceServerClient.generate_request_body([tensor])
    asked = parse_request(body, known, str(length).encode())
    np.testing.assert_array_equal(asked.inputs[0], sent)
    came, header = answer("m", "1", InferRequest("", [], [0], frozenset({0}), 1), asked.inputs, known)
    result = triton.InferenceServerClient.parse_response_body(came, header_length=header)
    np.testing.assert_array_equal(result.as_numpy("y"), sent)


@given(texts=st.lists(st.binary(max_size=9), min_size=1, max_size=9))
def test_bytes_go_both_ways(texts: list[bytes]) -> None:
    dims = (Dim(-1),)
    known = Signature((TensorSpec("x", "BYTES", dims),), (TensorSpec("y", "BYTES", dims),))
    tensor = triton.InferInput("x", [len(texts)], "BYTES")
    tensor.set_data_from_numpy(np.array(texts, object), binary_data=True)
    body, length = triton.InferenceServerClient.generate_request_body([tensor])
    asked = parse_request(body, known, str(length).encode())
    assert asked.inputs[0].tolist() == texts
    came, header = answer("m", "1", InferRequest("", [], [0], frozenset({0}), 1), asked.inputs, known)
    result = triton.InferenceServerClient.parse_response_body(came, header_length=header)
    assert result.as_numpy("y").tolist() == texts


@pytest.mark.parametrize("sent", [b"\1\0\0", b"\2\0\0\0a", b"\1\0\0\0ab", b"\xff\xff\xff\xffabc"])
def test_bytes_that_are_cut_short(sent: bytes) -> None:
    known = Signature((TensorSpec("x", "BYTES", (Dim(-1),)),), ())
    with pytest.raises(BadRequest, match=r"ends within value [01]"):
        parse({"inputs": [entry("x", "BYTES", [1], **raw(len(sent)))]}, sent, known=known)


def test_bfloat16_goes_both_ways() -> None:
    known = Signature((TensorSpec("x", "BF16", (Dim(-1),)),), (TensorSpec("y", "BF16", (Dim(-1),)),))
    sent = b"\xc0\x3f\x00\xc0\x80\x7f"
    asked = parse({"inputs": [entry("x", "BF16", [3], **raw(6))]}, sent, known=known)
    assert asked.inputs[0].tolist() == [1.5, -2.0, float("inf")]
    body, header = answer("m", "1", InferRequest("", [], [0], frozenset({0}), 1), asked.inputs, known)
    assert body[header:] == sent
