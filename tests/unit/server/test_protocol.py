"""Requests as JSON: what is understood, what is refused and in which words; answers as JSON."""

import math
import tracemalloc
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from moorage_server.protocol import BadRequest, InferRequest, answer, metadata, parse_request
from moorage_server.signature import ARRAYS, Dim, Signature, TensorSpec

BATCH = Dim(-1, "batch")


def signature(*inputs: TensorSpec, outputs: tuple[TensorSpec, ...] = ()) -> Signature:
    return Signature(inputs, outputs or (TensorSpec("y", "FP32", (BATCH,)), TensorSpec("label", "INT64", (BATCH,))))


X = TensorSpec("x", "FP32", (BATCH, Dim(2)))
ONE = signature(X)


def parse(content: Any, known: Signature = ONE) -> InferRequest:
    return parse_request(orjson.dumps(content), known)


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2.5]} | changes


def refusal(content: Any, known: Signature = ONE) -> str:
    with pytest.raises(BadRequest) as refused:
        parse(content, known)
    return str(refused.value)


def test_flat_and_nested_data_are_the_same() -> None:
    flat = parse({"inputs": [tensor(shape=[2, 2], data=[1, 2, 3, 4])]})
    nested = parse({"inputs": [tensor(shape=[2, 2], data=[[1, 2], [3, 4]])]})
    np.testing.assert_array_equal(flat.inputs[0], nested.inputs[0])
    assert flat.inputs[0].dtype == np.float32
    assert flat.rows == nested.rows == 2


def test_id_and_selected_outputs() -> None:
    request = parse({"id": "a-1", "inputs": [tensor()], "outputs": [{"name": "label"}]})
    assert (request.id, request.outputs) == ("a-1", [1])
    assert list(parse({"inputs": [tensor()]}).outputs) == [0, 1]
    assert list(parse({"inputs": [tensor()], "outputs": []}).outputs) == [0, 1]


def test_how_urgent_it_is_and_how_long_it_may_wait() -> None:
    said = parse({"inputs": [tensor()], "parameters": {"priority": 1, "timeout": 250_000}})
    assert (said.priority, said.timeout) == (1, 0.25)
    silent = parse({"inputs": [tensor()], "parameters": {"priority": 0, "timeout": 0, "other": "x"}})
    assert (silent.priority, silent.timeout) == (5, math.inf)
    for parameters in ({"priority": 10}, {"priority": "1"}, {"timeout": -1}, {"timeout": 1.5}, {"timeout": True}):
        assert "it must be an integer from 0 to" in refusal({"inputs": [tensor()], "parameters": parameters})


def test_inputs_come_in_the_order_of_the_signature() -> None:
    known = signature(TensorSpec("a", "INT64", (BATCH,)), TensorSpec("b", "INT64", (BATCH,)))
    b, a = (
        tensor(name="b", datatype="INT64", shape=[1], data=[2]),
        tensor(name="a", datatype="INT64", shape=[1], data=[1]),
    )
    assert [array.tolist() for array in parse({"inputs": [b, a]}, known).inputs] == [[1], [2]]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], 'the body must be a JSON object with "inputs"'),
        ({}, 'the body must be a JSON object with "inputs"'),
        ({"inputs": {}}, 'the body must be a JSON object with "inputs"'),
        ({"inputs": [], "id": 7}, '"id" must be a string'),
        ({"inputs": []}, "input 'x' FP32 [-1, 2] is missing"),
        ({"inputs": ["x"]}, "inputs[0] must be an object with a name, a datatype, a shape and data"),
        ({"inputs": [tensor(), tensor()]}, "input 'x' is given twice"),
        ({"inputs": [tensor(name="z")]}, "the model has no input 'z'; it takes 'x' FP32 [-1, 2]"),
        ({"inputs": [tensor(datatype="FP64")]}, "input 'x' has datatype 'FP64', the model takes FP32"),
        ({"inputs": [tensor(datatype=None)]}, "input 'x' has datatype None, the model takes FP32"),
        (
            {"inputs": [tensor(shape=[1, 3])]},
            "input 'x' has shape [1, 3], the model takes [-1, 2] (dimension 0 from 1)",
        ),
        ({"inputs": [tensor(shape=[2])]}, "input 'x' has shape [2], the model takes [-1, 2]"),
        ({"inputs": [tensor(shape=[0, 2], data=[])]}, "input 'x' has shape [0, 2], the model takes [-1, 2]"),
        ({"inputs": [tensor(shape=[-1, 2])]}, "input 'x' has shape [-1, 2], the model takes [-1, 2]"),
        ({"inputs": [tensor(shape=[1.0, 2])]}, "must be a list of integers that fits [-1, 2]"),
        ({"inputs": [tensor(shape=[True, 2])]}, "must be a list of integers that fits [-1, 2]"),
        ({"inputs": [tensor(shape="1,2")]}, "must be a list of integers that fits [-1, 2]"),
        ({"inputs": [tensor(data=[1])]}, "input 'x': its data has 1 values, the shape [1, 2] needs 2"),
        ({"inputs": [tensor(data=[[1], [2]])]}, "input 'x': its data has [2, 1], the shape [1, 2] needs 2"),
        ({"inputs": [tensor(data=[[1, 2], [3]])]}, "input 'x': the lists in its data have unequal lengths"),
        ({"inputs": [tensor(data=["1", "2"])]}, "input 'x': its data must be numbers that fit FP32"),
        ({"inputs": [tensor(data=[1, None])]}, "input 'x': its data must be numbers that fit FP32"),
        ({"inputs": [tensor(data=[True, False])]}, "input 'x': its data must be numbers that fit FP32"),
        ({"inputs": [tensor(data=[{}, {}])]}, "input 'x': its data must be numbers that fit FP32"),
        ({"inputs": [tensor(data=[1, 1e39])]}, "input 'x': its data goes beyond FP32"),
        ({"inputs": [tensor(data=1)]}, "input 'x': \"data\" must be a list of FP32 values"),
        ({"inputs": [{k: v for k, v in tensor().items() if k != "data"}]}, "input 'x' has no \"data\""),
        (
            {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}]},
            "is sent as binary data: say where it begins (Inference-Header-Content-Length)",
        ),
        (
            {"inputs": [{**tensor(), "data": [1, 2]}], "outputs": [{"name": "z"}]},
            "the model has no output 'z'; it gives",
        ),
        ({"inputs": [tensor()], "outputs": ["y"]}, "outputs[0] must be an object with a name"),
        ({"inputs": [tensor()], "outputs": 3}, '"outputs" must be a list of objects with a name'),
        (
            {"inputs": [tensor()], "outputs": [{"name": "y", "parameters": {"classification": 3}}]},
            "output 'y': the classification extension is not supported",
        ),
    ],
)
def test_refusals_name_the_tensor_and_what_was_expected(content: Any, words: str) -> None:
    assert words in refusal(content)


@pytest.mark.parametrize(
    ("datatype", "data", "words"),
    [
        ("INT64", [1.5], "its data must be integers that fit INT64"),
        ("INT8", [200], "its data goes beyond INT8, which is -128 to 127"),
        ("UINT8", [-1], "its data goes beyond UINT8, which is 0 to 255"),
        ("UINT64", [2**64], "must be integers that fit UINT64"),
        ("BOOL", [1], "its data must be true and false that fit BOOL"),
        ("FP16", [70000], "its data goes beyond FP16"),
    ],
)
def test_values_must_fit_the_datatype(datatype: str, data: list[Any], words: str) -> None:
    known = signature(TensorSpec("x", datatype, (BATCH,)))
    # Through json, not orjson, which cannot write 2**64.
    body = str([{"name": "x", "datatype": datatype, "shape": [1], "data": data}]).replace("'", '"')
    with pytest.raises(BadRequest, match=words):
        parse_request(f'{{"inputs": {body}}}'.encode(), known)


def test_a_body_that_is_not_json() -> None:
    with pytest.raises(BadRequest, match="the body is not JSON: "):
        parse_request(b'{"inputs": [', ONE)


def test_dimensions_with_a_common_symbol_must_be_equal() -> None:
    known = signature(TensorSpec("a", "FP32", (BATCH,)), TensorSpec("b", "FP32", (BATCH,)))
    a, b = tensor(name="a", shape=[1], data=[1]), tensor(name="b", shape=[2], data=[1, 2])
    assert refusal({"inputs": [a, b]}, known) == "dimension 0 of 'b' is 2, dimension 0 of 'a' is 1: they must be equal"


def test_dimensions_have_bounds() -> None:
    known = signature(TensorSpec("x", "FP32", (Dim(-1, "batch", 1, 2),)))
    assert "(dimension 0 from 1 to 2)" in refusal({"inputs": [tensor(shape=[3], data=[1, 2, 3])]}, known)


def test_what_is_quoted_back_is_short() -> None:
    assert len(refusal({"inputs": [tensor(shape="x" * 10_000)]})) < 300
    assert len(refusal({"inputs": [tensor(name="x" * 10_000)]})) < 300


def test_a_long_text_among_numbers_costs_no_memory() -> None:
    """numpy would make 4 bytes of each of its letters, for each value."""
    known = signature(TensorSpec("x", "FP32", (Dim(-1),)))
    tracemalloc.start()
    try:
        assert "must be numbers" in refusal({"inputs": [tensor(shape=[3000], data=["a" * 20_000, *[1] * 2999])]}, known)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_small_and_large_integers_side_by_side() -> None:
    known = signature(TensorSpec("x", "UINT64", (Dim(-1),)))
    body = orjson.dumps({"inputs": [tensor(datatype="UINT64", shape=[2], data=[1, 2**63 + 1])]})
    assert parse_request(body, known).inputs[0].tolist() == [1, 2**63 + 1]
    with_minus = {"inputs": [tensor(datatype="UINT64", shape=[2], data=[-1, 2**63])]}
    assert "goes beyond UINT64" in refusal(with_minus, known)
    narrow = signature(TensorSpec("x", "INT64", (Dim(-1),)))
    assert "goes beyond INT64" in refusal({"inputs": [tensor(datatype="INT64", shape=[2], data=[0, 2**63])]}, narrow)


@settings(max_examples=300, deadline=None)
@given(datatype=st.sampled_from(sorted(set(ARRAYS) - {"BF16", "BYTES"})), data=st.data())
def test_every_value_of_every_datatype_arrives(datatype: str, data: st.DataObject) -> None:
    shapes = st_numpy.array_shapes(min_dims=1, max_dims=4, max_side=4)
    elements = {"allow_nan": False, "allow_infinity": False} if datatype.startswith("FP") else None
    sent = data.draw(st_numpy.arrays(ARRAYS[datatype], shapes, elements=elements))
    known = signature(TensorSpec("x", datatype, tuple(Dim(-1) for _ in sent.shape)))
    values = (sent if data.draw(st.booleans()) else sent.ravel()).tolist()
    body = orjson.dumps({"inputs": [tensor(datatype=datatype, shape=list(sent.shape), data=values)]})
    got = parse_request(body, known).inputs[0]
    assert got.dtype == ARRAYS[datatype]
    np.testing.assert_array_equal(got, sent)


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=500, deadline=None)
@given(changes=st.dictionaries(st.sampled_from(["name", "datatype", "shape", "data", "parameters"]), _json), more=_json)
def test_whatever_is_sent_is_understood_or_refused(changes: dict[str, Any], more: Any) -> None:
    for content in ({"inputs": [tensor(**changes)], "outputs": more}, {"inputs": more}, more):
        try:
            request = parse(content)
        except BadRequest as error:
            assert str(error)
        else:
            assert request.inputs[0].shape == (request.rows, 2)


@given(body=st.binary(max_size=60))
def test_bytes_are_no_surprise(body: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_request(body, ONE)


def test_an_answer_holds_the_outputs_asked_for() -> None:
    request = InferRequest("7", [], [1, 0], frozenset(), 2)
    body = orjson.loads(answer("digits", "2", request, [np.float32([0.1, 2]), np.int64([3, 4])], ONE)[0])
    assert body == {
        "model_name": "digits",
        "model_version": "2",
        "id": "7",
        "outputs": [
            {"name": "label", "datatype": "INT64", "shape": [2], "data": [3, 4]},
            {"name": "y", "datatype": "FP32", "shape": [2], "data": [0.1, 2.0]},
        ],
    }


def test_an_answer_without_numbers_is_still_json() -> None:
    values = np.array([[math.nan, 1.5], [math.inf, -math.inf]], np.float32)
    known = signature(X, outputs=(TensorSpec("y", "FP32", (BATCH, Dim(2))),))
    body = orjson.loads(answer("m", "1", InferRequest("", [], [0], frozenset(), 2), [values], known)[0])
    assert body["outputs"][0]["data"] == [None, 1.5, None, None]
    assert "id" not in body


def test_texts() -> None:
    dims = (BATCH, Dim(2))
    known = signature(TensorSpec("x", "BYTES", dims), outputs=(TensorSpec("y", "BYTES", dims),))

    def asked(data: Any) -> Any:
        return parse_request(orjson.dumps({"inputs": [tensor(datatype="BYTES", shape=[1, 2], data=data)]}), known)

    assert asked(["é", ""]).inputs[0].tolist() == asked([["é", ""]]).inputs[0].tolist() == [["é".encode(), b""]]
    body = orjson.loads(answer("m", "1", asked(["é", "b"]), asked(["é", "b"]).inputs, known)[0])
    assert body["outputs"] == [{"name": "y", "datatype": "BYTES", "shape": [1, 2], "data": ["é", "b"]}]
    with pytest.raises(BadRequest, match="ask for it as binary data"):
        answer("m", "1", asked(["a", "b"]), [np.array([[b"\xff", b""]], object)], known)
    for data, words in (([1, 2], "must be texts"), (["a"], "has 1 values, the shape"), (["a", ["b"]], "must be texts")):
        with pytest.raises(BadRequest, match=words):
            asked(data)


@pytest.mark.parametrize("datatype", sorted(set(ARRAYS) - {"BYTES"}))
def test_every_datatype_is_answered(datatype: str) -> None:
    known = signature(X, outputs=(TensorSpec("y", datatype, (BATCH,)),))
    body = orjson.loads(
        answer("m", "1", InferRequest("", [], [0], frozenset(), 2), [np.array([0, 1], ARRAYS[datatype])], known)[0]
    )
    assert body["outputs"][0]["data"] == [0, 1]


def test_metadata() -> None:
    assert metadata("m", "1", "p", ONE) == {
        "name": "m",
        "versions": ["1"],
        "platform": "p",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
        "outputs": [
            {"name": "y", "datatype": "FP32", "shape": [-1]},
            {"name": "label", "datatype": "INT64", "shape": [-1]},
        ],
    }
