"""gRPC on the port of HTTP: with the official clients, before a real server."""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from tritonclient import grpc as triton
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from moorage_server import protobuf

from .conftest import FEATURES, Server, Start, fp32
from .test_handler import WRITER, folder

INFER = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(address(server)) as client:
        yield client


def address(server: Server) -> str:
    return f"127.0.0.1:{server.ports['http']}"


def tensor(rows: np.ndarray, name: str = "x", datatype: str = "FP32") -> triton.InferInput:
    made = triton.InferInput(name, list(rows.shape), datatype)
    made.set_data_from_numpy(rows)
    return made


def some(rows: int = 2, features: int = FEATURES) -> np.ndarray:
    return np.linspace(0, 1, rows * features, dtype=np.float32).reshape(rows, features)


def over_http(server: Server, rows: np.ndarray) -> list[float]:
    answer = httpx.post(server.url + server.infer_path, json={"inputs": [fp32(rows.tolist())]}).json()
    data: list[float] = answer["outputs"][0]["data"]
    return data


def refused(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as raised:
        call()
    return raised.value.code(), raised.value.details()


def test_messages_are_those_of_the_protocol() -> None:
    def fields(descriptor: Any) -> dict[str, tuple[Any, ...]]:
        return {
            field.name: (field.number, field.type, field.is_repeated, field.containing_oneof is not None)
            for field in descriptor.fields
        }

    for name, ours in protobuf.CLASSES.items():
        if name.startswith("Health"):
            continue
        theirs: Any = service_pb2
        for part in name.split("."):
            theirs = getattr(theirs, part)
        assert ours.DESCRIPTOR.full_name == theirs.DESCRIPTOR.full_name
        assert fields(ours.DESCRIPTOR).items() <= fields(theirs.DESCRIPTOR).items(), name


def test_health_and_metadata(client: triton.InferenceServerClient, server: Server) -> None:
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready(server.name) and client.is_model_ready(server.name, "1")
    about = client.get_server_metadata()
    assert about.name == "moorage" and "binary_tensor_data" in about.extensions
    model = client.get_model_metadata(server.name)
    assert [(one.name, one.datatype, list(one.shape)) for one in model.inputs] == [("x", "FP32", [-1, FEATURES])]
    assert {one.name for one in model.outputs} == {"probabilities", "label"}
    index = client.get_model_repository_index()
    assert [(one.name, one.version, one.state) for one in index.models] == [(server.name, "1", "READY")]


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_answers_as_http_does(client: triton.InferenceServerClient, server: Server, compression: str | None) -> None:
    rows = some(3)
    result = client.infer(server.name, [tensor(rows)], request_id="seven", compression_algorithm=compression)
    assert result.get_response().id == "seven"
    assert result.as_numpy("label").shape == (3,)
    np.testing.assert_allclose(result.as_numpy("probabilities").ravel(), over_http(server, rows), rtol=1e-5)
    only = client.infer(server.name, [tensor(rows)], outputs=[triton.InferRequestedOutput("label")])
    assert [one.name for one in only.get_response().outputs] == ["label"]


def test_values_in_fields_of_their_type(server: Server) -> None:
    """As clients send them that know nothing of raw bytes."""
    rows = some(2)
    request = service_pb2.ModelInferRequest(model_name=server.name)
    request.inputs.add(name="x", datatype="FP32", shape=[2, FEATURES]).contents.fp32_contents.extend(rows.ravel())
    with grpc.insecure_channel(address(server)) as channel:
        answer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
    got = np.frombuffer(answer.raw_output_contents[0], np.float32)
    np.testing.assert_allclose(got, over_http(server, rows), rtol=1e-5)


def request(raw: bytes | None = None, rows: int = 1, **changes: Any) -> Any:
    content = some(1).tobytes() if raw is None else raw
    made = service_pb2.ModelInferRequest(model_name="digits", raw_input_contents=[content])
    made.inputs.add(name="x", datatype="FP32", shape=[rows, FEATURES])
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def without_raw(**contents: Any) -> Any:
    made = request()
    del made.raw_input_contents[:]
    for name, values in contents.items():
        getattr(made.inputs[0].contents, name).extend(values)
    return made


def with_input(**changes: Any) -> Any:
    made = request()
    for name, value in changes.items():
        if name == "shape":
            made.inputs[0].shape[:] = value
        else:
            setattr(made.inputs[0], name, value)
    return made


def twice() -> Any:
    made = request()
    made.inputs.append(made.inputs[0])
    return made


def with_more_raw() -> Any:
    made = request()
    made.raw_input_contents.append(b"1234")
    return made


def with_both() -> Any:
    made = request()
    made.inputs[0].contents.fp32_contents.append(1.0)
    return made


def with_parameter(name: str, **value: Any) -> Any:
    made = request()
    made.parameters[name].CopyFrom(service_pb2.InferParameter(**value))
    return made


def wanting(output: str) -> Any:
    made = request()
    made.outputs.add(name=output)
    return made


BAD = {
    "unknown model": (request(model_name="other"), "NOT_FOUND", "this server serves 'digits'"),
    "unknown version": (request(model_version="7"), "NOT_FOUND", "this server serves '1'"),
    "unknown input": (with_input(name="y"), "INVALID_ARGUMENT", "the model has no input 'y'"),
    "no input": (service_pb2.ModelInferRequest(model_name="digits"), "INVALID_ARGUMENT", "is missing"),
    "wrong datatype": (with_input(datatype="FP64"), "INVALID_ARGUMENT", "the model takes FP32"),
    "wrong shape": (with_input(shape=[1, 3]), "INVALID_ARGUMENT", "has shape [1, 3]"),
    "no rows": (with_input(shape=[0, FEATURES]), "INVALID_ARGUMENT", "dimension 0 from 1"),
    "shape beyond the data": (with_input(shape=[1 << 40, FEATURES]), "INVALID_ARGUMENT", "needs"),
    "input twice": (twice(), "INVALID_ARGUMENT", "is given twice"),
    "more raw than inputs": (with_more_raw(), "INVALID_ARGUMENT", "raw_input_contents has 2 entries"),
    "raw and typed": (with_both(), "INVALID_ARGUMENT", "send one of them"),
    "typed in the wrong field": (without_raw(int_contents=[1]), "INVALID_ARGUMENT", "belong in fp32_contents"),
    "typed too few": (without_raw(fp32_contents=[1.0]), "INVALID_ARGUMENT", "has 4 bytes"),
    "no data": (without_raw(), "INVALID_ARGUMENT", "has 0 bytes"),
    "unknown output": (wanting("other"), "INVALID_ARGUMENT", "the model has no output 'other'"),
    "priority of a word": (with_parameter("priority", string_param="high"), "INVALID_ARGUMENT", "priority"),
    "timeout below nothing": (with_parameter("timeout", int64_param=-1), "INVALID_ARGUMENT", "timeout"),
}


@pytest.mark.parametrize("name", BAD)
def test_each_bad_request_is_told_what_is_wrong_with_it(server: Server, name: str) -> None:
    message, code, words = BAD[name]
    with grpc.insecure_channel(address(server)) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        got, said = refused(lambda: stub.ModelInfer(message))
        assert got.name == code and words in said
        assert stub.ModelInfer(request()).model_name == "digits"


def slowly(messages: Iterable[bytes]) -> Iterator[bytes]:
    for message in messages:
        yield message
        time.sleep(0.2)


def test_what_is_no_message_or_no_method(server: Server) -> None:
    with grpc.insecure_channel(address(server)) as channel:
        code, said = refused(lambda: channel.unary_unary(INFER)(b"\xff\xff\xff"))
        assert (code, said) == (grpc.StatusCode.INVALID_ARGUMENT, "the message is no ModelInferRequest")
        code, said = refused(lambda: channel.unary_unary("/inference.GRPCInferenceService/ModelConfig")(b""))
        assert code is grpc.StatusCode.UNIMPLEMENTED and "ModelStreamInfer" in said
        code, said = refused(lambda: channel.stream_unary(INFER)(slowly([request().SerializeToString()] * 2)))
        assert (code, said) == (grpc.StatusCode.INTERNAL, "this method takes one message")
        code, said = refused(lambda: channel.stream_unary(INFER)(iter([])))
        assert code is grpc.StatusCode.INTERNAL
        code, said = refused(lambda: channel.unary_unary(INFER)(bytes(100_001)))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than 100000 bytes" in said


def test_the_usual_health_service(server: Server) -> None:
    with grpc.insecure_channel(address(server)) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert check(b"") == b"\x08\x01"  # SERVING
        assert check(b"\x0a\x1e" + b"inference.GRPCInferenceService") == b"\x08\x01"
        code, _ = refused(lambda: check(b"\x0a\x05other"))
        assert code is grpc.StatusCode.NOT_FOUND


def test_many_at_once_on_one_connection_share_batches(client: triton.InferenceServerClient, server: Server) -> None:
    rows = some(64)
    wanted = np.array(over_http(server, rows)).reshape(64, -1)
    with ThreadPoolExecutor(64) as pool:
        got = list(pool.map(lambda i: client.infer(server.name, [tensor(rows[i : i + 1])]), range(64)))
    for i, result in enumerate(got):
        np.testing.assert_allclose(result.as_numpy("probabilities")[0], wanted[i], rtol=1e-5)


def test_a_stream_answers_each_message_and_goes_on_after_a_mistake(server: Server) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with triton.InferenceServerClient(address(server)) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for i in range(20):
            client.async_stream_infer(server.name, [tensor(some(1))], request_id=str(i))
        client.async_stream_infer(server.name, [tensor(some(1, 3))], request_id="wrong")
        client.async_stream_infer(server.name, [tensor(some(1))], request_id="last")
        got = [answers.get(timeout=30) for _ in range(22)]
        client.stop_stream()
    assert "has shape [1, 3]" in str(got[20][1])
    assert [result.get_response().id for result, error in got if not error] == [*map(str, range(20)), "last"]


def test_large_messages_in_both_directions(start_server: Start, classifier: Path) -> None:
    """Many times larger than any window."""
    server = start_server(classifier)
    rows = np.random.default_rng(0).random((400_000, FEATURES), dtype=np.float32)  # 12.8 MB
    with triton.InferenceServerClient(address(server)) as client:
        got = client.infer(server.name, [tensor(rows)]).as_numpy("probabilities")
    assert got.shape == (400_000, 3)
    np.testing.assert_allclose(got.sum(1), 1, rtol=1e-5)
    assert server.terminate() == 0


def test_a_client_that_waits_no_longer(start_server: Start, slow: Path) -> None:
    """Its change of mind and its deadline: what nobody waits for is not run, and counted."""
    server = start_server(slow, MOORAGE_MAX_BATCH_SIZE="1")
    with triton.InferenceServerClient(address(server)) as client:
        given = [client.async_infer("digits", [tensor(some(1, 2))], lambda *_: None) for _ in range(6)]
        with pytest.raises(InferenceServerException, match="DEADLINE_EXCEEDED"):  # the client's clock or the server's
            client.infer("digits", [tensor(some(1, 2))], client_timeout=0.2)
        for one in given:
            one.cancel()
        client.infer("digits", [tensor(some(1, 2))])
    deadline = time.monotonic() + 10
    while server.metrics()["moorage_server_requests_in_flight"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    codes = {name: n for name, n in server.metrics().items() if name.startswith("moorage_server_requests_total")}
    assert sum(n for name, n in codes.items() if 'code="499"' in name or 'code="504"' in name) >= 1, codes
    assert server.terminate() == 0


def test_while_it_loads_and_when_it_goes(start_server: Start, classifier: Path) -> None:
    server = start_server(classifier, ready=False)
    server.ports = server.wait_for("listening")
    with grpc.insecure_channel(address(server)) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert stub.ServerLive(service_pb2.ServerLiveRequest()).live
        code, said = refused(lambda: stub.ModelInfer(request()))
        assert (code, said) == (grpc.StatusCode.UNAVAILABLE, "the model is still loading")
        server.wait_for("ready", 200)
        stop, failed = threading.Event(), []

        def ask() -> None:
            while not stop.is_set():
                try:
                    stub.ModelInfer(request(), timeout=20)
                except grpc.RpcError as error:
                    # Only once it listens no more may it be out of reach.
                    if "failed to connect" not in error.details().lower():
                        failed.append(error)
                    return

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(6.5)  # beyond the age at which connections are renewed
        assert all(thread.is_alive() for thread in threads)
        server.process.terminate()
        server.wait_for("drained")
        stop.set()
        for thread in threads:
            thread.join(30)
        assert not failed, failed
    assert server.process.wait(30) == 0


def text_request(text: str, count: int, seconds: float) -> Any:
    made = service_pb2.ModelInferRequest(model_name="digits")
    made.inputs.add(name="text_input", datatype="BYTES", shape=[1]).contents.bytes_contents.append(text.encode())
    made.parameters["count"].int64_param, made.parameters["seconds"].double_param = count, seconds
    return made


@pytest.mark.parametrize("whole", [True, False], ids=["that ends in time", "that does not"])
@pytest.mark.parametrize("open_end", [True, False], ids=["more may be asked", "nothing else is asked"])
def test_a_text_under_way_when_the_server_goes(
    whole: bool, open_end: bool, start_server: Start, tmp_path: Path
) -> None:
    """It is ended before the server is, or told why it is not; whether or not its client holds the call open."""
    count, done = 20 if whole else 10_000, threading.Event()
    env = {"MOORAGE_MODEL_FORMAT": "Python", "MOORAGE_DRAIN_TIMEOUT_SECONDS": "20" if whole else "2"}
    server = start_server(folder(tmp_path, WRITER), **env)

    def asked() -> Iterator[Any]:
        yield text_request("a", count, 0.1)
        if open_end:
            done.wait(60)

    with grpc.insecure_channel(address(server)) as channel:
        answers = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(asked(), timeout=60)
        first = next(answers)
        begin = time.monotonic()
        server.process.terminate()
        got, code = [first], None
        try:
            got.extend(answers)
        except grpc.RpcError as error:
            code = error.code()
        done.set()
    assert server.process.wait(30) == 0
    assert time.monotonic() - begin < (15 if whole else 5)
    # A call that is open has no end of its own: the server says that it goes.
    assert code is (grpc.StatusCode.UNAVAILABLE if open_end else None)
    errors = [one.error_message for one in got if one.error_message]
    texts = [one.infer_response.raw_output_contents[0][4:].decode() for one in got if not one.error_message]
    assert texts == [f"a{i} " for i in range(len(texts))]
    assert (len(texts), errors) == (20, []) if whole else errors == ["the server is going away; ask another replica"]


def test_http1_on_the_same_port_is_undisturbed(server: Server) -> None:
    assert httpx.get(server.url + "/v2/health/ready").status_code == 200
    with grpc.insecure_channel(address(server)) as channel:
        assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"") == b"\x08\x01"
    assert httpx.get(server.url + "/v2").json()["name"] == "moorage"
