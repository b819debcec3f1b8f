"""A model that is a Python class: its process, its batches, its texts, and what happens when it breaks."""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.grpc import service_pb2, service_pb2_grpc

from support import bad_requests

from .conftest import Server, Start

FUZZ_SECONDS = float(os.environ.get("FUZZ_SECONDS") or 10)
FUZZ_SEED = int(os.environ.get("FUZZ_SEED") or 0)
ADDER = """
import numpy as np
import helper

class Model:
    def load(self, folder, device):
        self.offset, self.device = float((folder / "offset.txt").read_text()), device

    def preprocess(self, inputs):
        return inputs["x"] * helper.SCALE

    def predict(self, x):
        if (x == 13 * helper.SCALE).any():
            raise ValueError("thirteen is refused")
        if (x == 99 * helper.SCALE).any():
            import os
            os._exit(7)
        if (x == 98 * helper.SCALE).any():
            import sys, threading
            threading.Thread(target=threading.Event().wait).start()
            sys.exit(8)
        if (x == 97 * helper.SCALE).any():
            import os, time
            if not os.fork():
                time.sleep(60)
            os._exit(6)
        return x + self.offset

    def postprocess(self, y):
        return {"y": y, "words": [f"{row[0]:g}" for row in y]}
"""
ADDER_YAML = """
inputs: [{name: x, datatype: FP32, shape: [-1, 2]}]
outputs: [{name: y, datatype: FP32, shape: [-1, 2]}, {name: words, datatype: BYTES, shape: [-1]}]
"""
WRITER = """
import time

class Model:
    def generate(self, text_input, parameters):
        if parameters.get("refuse"):
            raise ValueError("this is refused")
        try:
            for i in range(int(parameters.get("count", 3))):
                if i == parameters.get("break_at"):
                    raise RuntimeError("broken in the middle")
                if i == parameters.get("die_at"):
                    import os
                    os._exit(9)
                time.sleep(parameters.get("seconds", 0))
                if i == parameters.get("half_at"):
                    yield "\\ud800"
                yield f"{text_input}{i} "
        finally:
            print("ended", text_input, flush=True)
"""


def folder(where: Path, program: str, description: str = "", **files: str) -> Path:
    where.mkdir(parents=True, exist_ok=True)
    (where / "model.py").write_text(program)
    if description:
        (where / "moorage.yaml").write_text(description)
    for name, content in files.items():
        (where / name.replace("_", ".")).write_text(content)
    return where


@pytest.fixture(scope="module")
def adder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("adder")
    return folder(where, ADDER, ADDER_YAML, offset_txt="1", helper_py="SCALE = 10")


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("writer"), WRITER)


@pytest.fixture(scope="module")
def adding(start_server: Start, adder: Path) -> Server:
    return start_server(adder, MOORAGE_MODEL_FORMAT="Python")


@pytest.fixture(scope="module")
def writing(start_server: Start, writer: Path) -> Server:
    return start_server(writer, MOORAGE_MODEL_FORMAT="Python", MOORAGE_MAX_BATCH_SIZE="4", MOORAGE_MAX_QUEUE_SIZE="2")


def rows(*values: list[float]) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [len(values), 2], "data": list(values)}]}


def events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in response.iter_lines():
        if line:
            assert line.startswith("data: "), line
            yield json.loads(line.removeprefix("data: "))


# Batches.


def test_what_goes_in_and_comes_out(adding: Server) -> None:
    answer = httpx.post(adding.url + adding.infer_path, json=rows([1, 2], [3, 4])).raise_for_status().json()
    y, words = answer["outputs"]
    assert (y["data"], y["shape"]) == ([11, 21, 31, 41], [2, 2])
    assert words == {"name": "words", "datatype": "BYTES", "shape": [2], "data": ["11", "31"]}
    described = httpx.get(f"{adding.url}/v2/models/digits").json()
    assert described["platform"] == "python"
    assert described["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]


@pytest.mark.parametrize("binary", [False, True])
def test_triton_s_clients(adding: Server, binary: bool) -> None:
    array = np.array([[5, 6]], np.float32)
    address = f"127.0.0.1:{adding.ports['http']}"
    with triton_http.InferenceServerClient(address) as client:
        given = triton_http.InferInput("x", [1, 2], "FP32")
        given.set_data_from_numpy(array, binary_data=binary)
        wanted = [triton_http.InferRequestedOutput(name, binary_data=binary) for name in ("y", "words")]
        got = client.infer("digits", [given], outputs=wanted)
        assert got.as_numpy("y").tolist() == [[51, 61]]
        assert [str(word, "utf-8") if isinstance(word, bytes) else word for word in got.as_numpy("words")] == ["51"]
    with triton_grpc.InferenceServerClient(address) as client:
        given = triton_grpc.InferInput("x", [1, 2], "FP32")
        given.set_data_from_numpy(array)
        got = client.infer("digits", [given])
        assert (got.as_numpy("y").tolist(), got.as_numpy("words").tolist()) == ([[51, 61]], [b"51"])


def test_arrays_larger_than_any_before(adding: Server) -> None:
    for count in (1, 20_000, 3, 60_000):
        sent = np.random.default_rng(0).random((count, 2), np.float32)
        with triton_http.InferenceServerClient(f"127.0.0.1:{adding.ports['http']}") as client:
            given = triton_http.InferInput("x", list(sent.shape), "FP32")
            given.set_data_from_numpy(sent)
            got = client.infer("digits", [given], outputs=[triton_http.InferRequestedOutput("y")]).as_numpy("y")
        np.testing.assert_allclose(got, sent * 10 + 1, rtol=1e-6)


def test_its_own_error_is_told_with_its_line_and_is_nobody_else_s(adding: Server) -> None:
    with httpx.Client(base_url=adding.url) as client:
        failed = client.post(adding.infer_path, json=rows([13, 0]))
        assert failed.status_code == 500
        line = ADDER.splitlines().index('            raise ValueError("thirteen is refused")') + 1
        words = f"the model failed on this request: ValueError: thirteen is refused (model.py, line {line})"
        assert failed.json() == {"error": words}
        assert client.post(adding.infer_path, json=rows([1, 1])).status_code == 200


def test_no_torch_where_nobody_asked_for_it(adding: Server) -> None:
    for process in (adding.process.pid, child(adding)):
        assert "libtorch" not in Path(f"/proc/{process}/maps").read_text()


def test_a_process_that_ends_ends_the_server_with_its_reason(start_server: Start, adder: Path) -> None:
    server = start_server(adder, MOORAGE_MODEL_FORMAT="Python")
    failed = httpx.post(server.url + server.infer_path, json=rows([99, 0]))
    assert failed.status_code == 500
    assert "the model's process ended with exit code 7" in failed.json()["error"]
    assert server.process.wait(20) == 1
    assert server.termination["reason"] == "ModelCrashed"
    assert "exit code 7" in server.termination["message"]


@pytest.mark.parametrize(("value", "code"), [(98, 8), (97, 6)], ids=["sys.exit beside a thread", "forked before"])
def test_however_it_ends(value: float, code: int, start_server: Start, adder: Path) -> None:
    server = start_server(adder, MOORAGE_MODEL_FORMAT="Python")
    failed = httpx.post(server.url + server.infer_path, json=rows([value, 0]), timeout=20)
    assert f"exit code {code}" in failed.json()["error"]
    assert server.process.wait(20) == 1


def test_its_end_is_noticed_without_a_request(start_server: Start, adder: Path) -> None:
    server = start_server(adder, MOORAGE_MODEL_FORMAT="Python")
    os.kill(child(server), signal.SIGKILL)
    assert server.process.wait(20) == 1
    assert "signal 9" in server.termination["message"]


def child(server: Server) -> int:
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    tasks = Path(f"/proc/{server.process.pid}/task").iterdir()
    children = [one for task in tasks for one in (task / "children").read_text().split()]
    assert len(children) == 1
    return int(children[0])


def test_it_goes_with_the_server(start_server: Start, adder: Path) -> None:
    server = start_server(adder, MOORAGE_MODEL_FORMAT="Python")
    process = Path(f"/proc/{child(server)}")
    assert server.terminate() == 0
    deadline = time.monotonic() + 10
    while process.exists() and "State:\tZ" not in (process / "status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_several_of_which_one_breaks(start_server: Start, adder: Path, writer: Path, tmp_path: Path) -> None:
    (tmp_path / "adder").symlink_to(adder)
    (tmp_path / "writer").symlink_to(writer)
    models = [{"name": name, "format": "Python"} for name in ("adder", "writer")]
    server = start_server(tmp_path, MOORAGE_MODELS=json.dumps(models))
    with httpx.Client(base_url=server.url, timeout=30) as client:
        assert client.post("/v2/models/adder/infer", json=rows([99, 0])).status_code == 500
        told = client.post("/v2/models/adder/infer", json=rows([1, 0]))
        assert (told.status_code, "ModelCrashed" in told.json()["error"]) == (503, True)
        text = client.post("/v2/models/writer/generate", json={"text_input": "a"})
        assert text.json()["text_output"] == "a0 a1 a2 "
        assert client.post("/v2/repository/models/adder/load").status_code == 200
        assert client.post("/v2/models/adder/infer", json=rows([1, 0])).status_code == 200
        assert client.post("/v2/repository/models/writer/unload").status_code == 200
        assert client.post("/v2/models/writer/generate", json={"text_input": "b"}).status_code == 200
    assert server.terminate() == 0


def test_a_text_that_does_not_end_keeps_no_model_in_memory(start_server: Start, writer: Path, tmp_path: Path) -> None:
    (tmp_path / "writer").symlink_to(writer)
    models = json.dumps([{"name": "writer", "format": "Python"}])
    server = start_server(tmp_path, MOORAGE_MODELS=models, MOORAGE_DRAIN_TIMEOUT_SECONDS="1")
    process = Path(f"/proc/{child(server)}")
    body = {"text_input": "a", "count": 1_000_000, "seconds": 0.01}
    with (
        httpx.Client(base_url=server.url, timeout=30) as client,
        client.stream("POST", "/v2/models/writer/generate_stream", json=body) as response,
    ):
        coming = events(response)
        next(coming)
        assert httpx.post(f"{server.url}/v2/repository/models/writer/unload", timeout=30).status_code == 200
        *_, last = coming
    assert last == {"error": "'writer' is unloaded; ask again"}
    assert not process.exists()


SLEEPER = """
import time

class Model:
    def predict(self, inputs):
        time.sleep(0.2)
        return {"y": inputs["x"], "words": ["a"] * len(inputs["x"])}
"""


def test_batches_that_wait_are_ended_however_long_it_takes(start_server: Start, tmp_path: Path) -> None:
    """Though they take longer than a text would be given."""
    folder(tmp_path / "sleeper", SLEEPER, ADDER_YAML)
    models = json.dumps([{"name": "sleeper", "format": "Python"}])
    how = {"MOORAGE_DRAIN_TIMEOUT_SECONDS": "0", "MOORAGE_MAX_BATCH_SIZE": "1"}
    server = start_server(tmp_path, MOORAGE_MODELS=models, **how)
    codes: list[int] = []

    def ask() -> None:
        answer = httpx.post(f"{server.url}/v2/models/sleeper/infer", json=rows([1, 2]), timeout=30)
        codes.append(answer.status_code)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    assert httpx.post(f"{server.url}/v2/repository/models/sleeper/unload", timeout=30).status_code == 200
    for thread in threads:
        thread.join()
    assert codes == [200] * 6


def test_preprocess_is_the_class_s_own(start_server: Start, tmp_path: Path) -> None:
    where = folder(tmp_path, WRITER, "preprocess: {text_input: {type: Text}}")
    server = start_server(where, ready=False, MOORAGE_MODEL_FORMAT="Python")
    assert server.process.wait(30) != 0
    assert "write its method preprocess" in server.termination["message"]


def test_one_that_is_too_large_once_it_is_there_is_ended(start_server: Start, adder: Path, tmp_path: Path) -> None:
    (tmp_path / "adder").symlink_to(adder)
    models = json.dumps([{"name": "adder", "format": "Python"}])
    server = start_server(tmp_path, ready=False, MOORAGE_MODELS=models, MOORAGE_MEMORY_BUDGET_BYTES=str(1 << 20))
    assert server.process.wait(30) == 1
    assert server.termination["reason"] == "OutOfMemory"


def test_a_description_of_another_format(start_server: Start, tmp_path: Path) -> None:
    where = folder(tmp_path, WRITER, "format: TorchExport")
    server = start_server(where, ready=False, MOORAGE_MODEL_FORMAT="Python")
    assert server.process.wait(30) != 0
    assert "says format TorchExport, the server was told Python" in server.termination["message"]


BAD = {
    "no model.py": ({"other.txt": ""}, "ModelNotFound", "holds no model.py"),
    "no class": ({"model.py": "x = 1"}, "FormatMismatch", "write class Model with predict or generate"),
    "neither method": ({"model.py": "class Model: pass"}, "FormatMismatch", "neither predict nor generate"),
    "no description": (
        {"model.py": "class Model:\n    def predict(self, inputs): return inputs"},
        "FormatMismatch",
        "put a moorage.yaml beside model.py",
    ),
    "load fails": (
        {
            "model.py": "class Model:\n    def generate(self, t, p): yield t\n"
            "    def load(self, f, d): raise OSError('no disk')"
        },
        "LoadFailed",
        "OSError: no disk (model.py, line 3)",
    ),
    "no syntax": ({"model.py": "class Model:\n  def"}, "LoadFailed", "SyntaxError"),
    "dies": ({"model.py": "import os\nos._exit(5)"}, "ModelCrashed", "exit code 5"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_model_is_told(case: str, start_server: Start, tmp_path: Path) -> None:
    files, reason, words = BAD[case]
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    server = start_server(tmp_path, ready=False, MOORAGE_MODEL_FORMAT="Python")
    assert server.process.wait(30) != 0
    assert server.termination["reason"] == reason
    assert words in server.termination["message"]


def test_what_it_gives_must_be_what_is_described(start_server: Start, tmp_path: Path) -> None:
    program = "import numpy as np\nclass Model:\n    def predict(self, inputs): return GIVEN[int(inputs['x'][0][0])]\n"
    program += (
        "GIVEN = {1: {'y': [[1.5]]}, 2: {'y': [1.5], 'words': ['a']}, 3: 5, 4: {'y': [['a', 'b']], 'words': ['a']}}\n"
    )
    program += "GIVEN[5] = {'y': [[1, 2]], 'words': [5]}\n"
    program += "GIVEN[0] = {'y': np.zeros((1, 2)), 'words': [b'ok']}\n"
    server = start_server(folder(tmp_path, program, ADDER_YAML), MOORAGE_MODEL_FORMAT="Python")
    with httpx.Client(base_url=server.url) as client:

        def said(x: float) -> str:
            return str(client.post(server.infer_path, json=rows([x, 0])).json().get("error"))

        assert said(0) == "None"
        assert "output 'words' is missing" in said(1)
        assert "output 'y' FP32 [-1, 2] is described, the model gave [1]" in said(2)
        assert "it must give a dict of arrays by output" in said(3)
        assert "'y' is <U1; FP32 is described" in said(4)
        assert "output 'words' has int; BYTES are texts or bytes" in said(5)


# Texts.


def test_a_text_in_one_piece(writing: Server) -> None:
    body = {"text_input": "é", "id": "seven", "parameters": {"count": 2}}
    answer = httpx.post(f"{writing.url}/v2/models/digits/versions/1/generate", json=body).raise_for_status().json()
    assert answer == {"id": "seven", "model_name": "digits", "model_version": "1", "text_output": "é0 é1 "}


def test_parameters_may_stand_beside_the_text(writing: Server) -> None:
    answer = httpx.post(f"{writing.url}/v2/models/digits/generate", json={"text_input": "a", "count": 1})
    assert answer.json()["text_output"] == "a0 "


def test_a_text_piece_by_piece(writing: Server) -> None:
    body = {"text_input": "a", "parameters": {"count": 5, "seconds": 0.1}}
    with httpx.stream("POST", f"{writing.url}/v2/models/digits/generate_stream", json=body) as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        came = [(time.monotonic(), event["text_output"]) for event in events(response)]
    assert [text for _, text in came] == [f"a{i} " for i in range(5)]
    assert came[-1][0] - came[0][0] > 0.2  # one by one, not all at the end
    metrics = writing.metrics()
    labels = '{model="digits",version="1"}'
    assert metrics[f"moorage_server_generated_tokens_total{labels}"] >= 5
    assert metrics[f"moorage_server_time_to_first_token_seconds_count{labels}"] >= 1


def test_a_connection_goes_on_after_a_stream(writing: Server) -> None:
    with httpx.Client(base_url=writing.url) as client:
        for _ in range(3):
            with client.stream("POST", "/v2/models/digits/generate_stream", json={"text_input": "a"}) as response:
                assert len(list(events(response))) == 3
            assert client.get("/v2/health/ready").status_code == 200


def test_an_old_client_gets_all_until_the_end(writing: Server) -> None:
    body = b'{"text_input": "a"}'
    with socket.create_connection(("127.0.0.1", writing.ports["http"])) as peer:
        head = f"POST /v2/models/digits/generate_stream HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n"
        peer.sendall(head.encode() + body)
        answer = b"".join(iter(lambda: peer.recv(65536), b""))
    head_, _, content = answer.partition(b"\r\n\r\n")
    assert b"chunked" not in head_
    assert content.count(b"data: ") == 3


def test_errors_before_and_after_the_first_piece(writing: Server) -> None:
    path = f"{writing.url}/v2/models/digits/generate_stream"
    refused = httpx.post(path, json={"text_input": "a", "refuse": True})
    assert (refused.status_code, "this is refused (model.py, line" in refused.json()["error"]) == (500, True)
    with httpx.stream("POST", path, json={"text_input": "a", "break_at": 1}) as response:
        assert response.status_code == 200
        first, last = events(response)
    assert first["text_output"] == "a0 "
    assert "broken in the middle" in last["error"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "not JSON"),
        (b"[]", 'with "text_input"'),
        (b'{"text_input": 5}', 'with "text_input"'),
        (b'{"text_input": "a", "id": 5}', '"id" must be a string'),
        (b'{"text_input": "a", "parameters": []}', None),
        (b'{"text_input": "a", "parameters": [1]}', '"parameters" must be an object'),
        (b'{"text_input": "\xff"}', "not JSON"),
    ],
)
def test_bad_requests(writing: Server, body: bytes, words: str | None) -> None:
    answer = httpx.post(f"{writing.url}/v2/models/digits/generate", content=body)
    assert answer.status_code == (200 if words is None else 400)
    assert words is None or words in answer.json()["error"]


def test_half_a_character_is_told_and_disturbs_nobody(writing: Server) -> None:
    path = f"{writing.url}/v2/models/digits/generate"
    failed = httpx.post(path, json={"text_input": "a", "half_at": 0})
    assert (failed.status_code, "surrogates not allowed" in failed.json()["error"]) == (500, True)
    assert httpx.post(path, json={"text_input": "a"}).status_code == 200


def test_parameters_in_too_many_others_take_no_place(writing: Server) -> None:
    path = f"{writing.url}/v2/models/digits/generate"
    deep = b'{"text_input": "a", "x": ' + b"[" * 300 + b"]" * 300 + b"}"
    slow = {"text_input": "a", "seconds": 0.2}
    busy = [threading.Thread(target=httpx.post, args=(path,), kwargs={"json": slow, "timeout": 60}) for _ in range(4)]
    for i in range(10):
        if i == 5:
            for thread in busy:
                thread.start()
            time.sleep(0.1)
        answer = httpx.post(path, content=deep)
        assert (answer.status_code, "cannot be read" in answer.json()["error"]) == (400, True)
    for thread in busy:
        thread.join()
    assert httpx.post(path, json={"text_input": "a"}).status_code == 200


def test_a_text_that_is_longer_than_an_answer(start_server: Start, writer: Path) -> None:
    server = start_server(writer, MOORAGE_MODEL_FORMAT="Python", MOORAGE_MAX_BODY_BYTES="2000")
    path = f"{server.url}/v2/models/digits/generate"
    answer = httpx.post(path, json={"text_input": "a" * 100, "count": 100_000})
    assert (answer.status_code, "ask for it as a stream" in answer.json()["error"]) == (500, True)
    assert httpx.post(path, json={"text_input": "a"}).status_code == 200


def test_one_that_predicts_only(adding: Server) -> None:
    answer = httpx.post(f"{adding.url}/v2/models/digits/generate", json={"text_input": "a"})
    assert (answer.status_code, "generates no text" in answer.json()["error"]) == (400, True)


def test_inference_of_one_that_generates_only(writing: Server) -> None:
    inputs = [{"name": "text_input", "datatype": "BYTES", "shape": [2], "data": ["a", "b"]}]
    answer = httpx.post(writing.url + writing.infer_path, json={"inputs": inputs}).raise_for_status().json()
    assert answer["outputs"][0]["data"] == ["a0 a1 a2 ", "b0 b1 b2 "]


@pytest.mark.parametrize("raw", [False, True])
def test_inference_over_grpc(writing: Server, raw: bool) -> None:
    request = service_pb2.ModelInferRequest(model_name="digits")
    tensor = request.inputs.add(name="text_input", datatype="BYTES", shape=[2])
    if raw:
        request.raw_input_contents.append(b"\x01\0\0\0a\x01\0\0\0b")
    else:
        tensor.contents.bytes_contents.extend([b"a", b"b"])
    with grpc.insecure_channel(f"127.0.0.1:{writing.ports['http']}") as channel:
        answer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
    text = b"a0 a1 a2 "
    expected = b"".join(len(one).to_bytes(4, "little") + one for one in (text, text.replace(b"a", b"b")))
    assert list(answer.raw_output_contents) == [expected]


def texts(server: Server, *asked: tuple[str, dict[str, Any]], final: bool = False, pause: float = 0.0) -> list[Any]:
    """What a stream of Triton's client hears: (id, text), (id, None) for a last and empty answer, and errors' words."""
    heard: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{server.ports['http']}") as client:
        client.start_stream(lambda result, error: heard.put((result, error)))
        for text, parameters in asked:
            given = triton_grpc.InferInput("text_input", [1], "BYTES")
            given.set_data_from_numpy(np.array([text.encode()], object))
            more = {"enable_empty_final_response": final, "parameters": parameters, "request_id": text}
            client.async_stream_infer("digits", [given], **more)
        time.sleep(pause)
        client.stop_stream()  # waits for the answers to what was sent
    got: list[Any] = []
    while not heard.empty():
        result, error = heard.get()
        if error is not None:
            got.append(str(error))
            continue
        response = result.get_response()
        text = result.as_numpy("text_output")
        got.append((response.id, text[0].decode() if text is not None else None))
        if final:
            assert response.parameters["triton_final_response"].bool_param is (text is None)
    return got


def test_a_stream_of_texts_over_grpc(writing: Server) -> None:
    assert texts(writing, ("a", {"count": 2})) == [("a", "a0 "), ("a", "a1 ")]
    got = texts(writing, ("a", {"count": 2, "seconds": 1}), ("b", {"count": 1}), final=True)
    # In the order of the questions, though the second was ready first.
    assert got == [("a", "a0 "), ("a", "a1 "), ("a", None), ("b", "b0 "), ("b", None)]
    first, error = texts(writing, ("a", {"break_at": 1}))
    assert (first, "broken in the middle" in error) == (("a", "a0 "), True)


def test_a_long_text_over_grpc_and_more_than_may_be_written_at_once(writing: Server) -> None:
    got = texts(writing, ("x" * 5000, {"count": 500}))
    assert [text for _, text in got] == [f"{'x' * 5000}{i} " for i in range(500)]
    got = texts(writing, *((f"t{i}", {"count": 3}) for i in range(6)))
    assert got == [(f"t{i}", f"t{i}{n} ") for i in range(6) for n in range(3)]
    assert writing.metrics()["moorage_server_requests_in_flight"] == 0


def test_a_text_that_fails_while_another_is_first_and_many_questions_on_one_call(
    writing: Server, start_server: Start, writer: Path
) -> None:
    first, second, third = ("a", {"count": 2, "seconds": 0.3}), ("b", {"refuse": 1}), ("c", {"count": 1})
    got = texts(writing, first, second, third)
    assert (got[:2], got[3]) == ([("a", "a0 "), ("a", "a1 ")], ("c", "c0 "))
    assert "this is refused" in got[2]
    # More than a call's window of questions, none of which has a last answer of its own.
    long = "y" * 60_000
    server = start_server(writer, MOORAGE_MODEL_FORMAT="Python")
    got = texts(server, *[(long, {"count": 1})] * 40)
    assert got == [(long, f"{long}0 ")] * 40
    server.process.kill()


def test_who_leaves_a_stream_is_not_written_for_any_more(writing: Server) -> None:
    request = service_pb2.ModelInferRequest(model_name="digits")
    request.inputs.add(name="text_input", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"gone")
    request.parameters["count"].int64_param = 100_000
    request.parameters["seconds"].double_param = 0.01
    with grpc.insecure_channel(f"127.0.0.1:{writing.ports['http']}") as channel:
        call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(iter([request]))
        next(call)
        call.cancel()
    deadline = time.monotonic() + 10
    while "ended gone" not in writing.log_file.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_texts_at_the_same_time_take_turns_and_too_many_are_refused(writing: Server) -> None:
    came: dict[str, list[float]] = {}
    codes: list[int] = []

    def ask(name: str) -> None:
        body = {"text_input": name, "parameters": {"count": 10, "seconds": 0.03}}
        with httpx.stream("POST", f"{writing.url}/v2/models/digits/generate_stream", json=body, timeout=60) as response:
            codes.append(response.status_code)
            if response.status_code == 200:
                came[name] = [time.monotonic() for _ in events(response)]

    threads = [threading.Thread(target=ask, args=(f"t{i}-",)) for i in range(8)]
    for thread in threads:
        thread.start()
        time.sleep(0.01)
    for thread in threads:
        thread.join()
    assert sorted(codes) == [200] * 6 + [429] * 2  # four run, two wait
    assert all(len(times) == 10 for times in came.values())
    first = sorted(came, key=lambda name: came[name][0])[:4]
    assert max(came[name][0] for name in first) < min(came[name][-1] for name in first)


def test_who_comes_late_has_its_turn(start_server: Start, writer: Path) -> None:
    """Also when many have been written for long: what they have taken must not stand before what comes now."""
    server = start_server(writer, MOORAGE_MODEL_FORMAT="Python")
    path = f"{server.url}/v2/models/digits/generate_stream"
    done = threading.Event()

    def read() -> None:
        body = {"text_input": "a", "count": 100_000, "seconds": 0.002}
        with httpx.stream("POST", path, json=body, timeout=60) as response:
            for _ in events(response):
                if done.is_set():
                    return

    threads = [threading.Thread(target=read) for _ in range(20)]
    for thread in threads:
        thread.start()
    name = 'moorage_server_generated_tokens_total{model="digits",version="1"}'
    while server.metrics().get(name, 0) < 20 * 40:  # twice the window
        time.sleep(0.2)
    before = server.metrics()[name]
    with httpx.stream("POST", path, json={"text_input": "late", "count": 1}, timeout=60) as response:
        assert [event["text_output"] for event in events(response)] == ["late0 "]
    between = server.metrics()[name] - before
    done.set()
    for thread in threads:
        thread.join()
    assert between < 20 * 10  # a round or two, and what the asking takes; not sixteen
    server.process.kill()


def test_who_leaves_is_not_written_for_any_more(writing: Server) -> None:
    body = {"text_input": "leaver", "parameters": {"count": 100_000, "seconds": 0.01}}
    with httpx.stream("POST", f"{writing.url}/v2/models/digits/generate_stream", json=body) as response:
        next(events(response))
    deadline = time.monotonic() + 10
    while "ended leaver" not in writing.log_file.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert writing.metrics()["moorage_server_requests_in_flight"] == 0


def test_who_does_not_read_is_waited_for(writing: Server) -> None:
    """What it has not read is neither made nor kept: the model's process rests."""
    body = json.dumps({"text_input": "x" * 10_000, "parameters": {"count": 3000}}).encode()
    with socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.connect(("127.0.0.1", writing.ports["http"]))
        head = f"POST /v2/models/digits/generate_stream HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
        peer.sendall(head.encode() + body)
        time.sleep(1.5)
        labels = '{model="digits",version="1"}'
        one = writing.metrics()[f"moorage_server_generated_tokens_total{labels}"]
        time.sleep(0.5)
        assert writing.metrics()[f"moorage_server_generated_tokens_total{labels}"] == one
        got = b""
        while not got.endswith(b"\r\n0\r\n\r\n"):
            piece = peer.recv(1 << 20)
            assert piece
            got = got[-20:] + piece if len(got) > 1 << 20 else got + piece
    assert writing.metrics()[f"moorage_server_generated_tokens_total{labels}"] >= one + 1000


def test_a_text_under_way_is_ended_before_the_server_goes(start_server: Start, writer: Path) -> None:
    server = start_server(writer, MOORAGE_MODEL_FORMAT="Python")
    body = {"text_input": "a", "parameters": {"count": 20, "seconds": 0.1}}
    with httpx.stream("POST", f"{server.url}/v2/models/digits/generate_stream", json=body) as response:
        coming = events(response)
        next(coming)
        server.process.send_signal(signal.SIGTERM)
        assert len(list(coming)) == 19
    assert server.process.wait(30) == 0


def test_a_process_that_ends_within_a_text(start_server: Start, writer: Path) -> None:
    server = start_server(writer, MOORAGE_MODEL_FORMAT="Python")
    body = {"text_input": "a", "parameters": {"die_at": 1}}
    with httpx.stream("POST", f"{server.url}/v2/models/digits/generate_stream", json=body) as response:
        *_, last = events(response)
    assert "exit code 9" in last["error"]
    assert server.process.wait(20) == 1
    assert server.termination["reason"] == "ModelCrashed"


ECHO = """
class Model:
    def generate(self, text_input, parameters):
        for _ in range(min(int(parameters.get("count", 2)), 50)):
            yield text_input[:20]
"""


def test_whatever_comes_it_answers_or_hangs_up_and_serves_on(start_server: Start, tmp_path: Path) -> None:
    times = {f"MOORAGE_{what}_TIMEOUT_SECONDS": "1" for what in ("BODY", "HEADER", "IDLE")}
    server = start_server(folder(tmp_path, ECHO), MOORAGE_MODEL_FORMAT="Python", **times)
    model = "/v2/models/digits"
    body = json.dumps({"text_input": "größe", "id": "1", "parameters": {"count": 3}}).encode()
    tensor = {"name": "text_input", "datatype": "BYTES", "shape": [2], "data": ["a", "b"]}
    raws = [bad_requests.request("POST", f"{model}/{end}", body) for end in ("generate", "generate_stream")]
    raws.append(bad_requests.request("POST", f"{model}/infer", json.dumps({"inputs": [tensor]}).encode()))
    process = child(server)
    got = bad_requests.fuzz(server.url.removeprefix("http://"), raws, seconds=FUZZ_SECONDS, seed=FUZZ_SEED)
    print(got)
    assert {200, 400, 404} <= got.keys()
    answer = httpx.post(f"{server.url}{model}/generate", json={"text_input": "a"})
    assert answer.json()["text_output"] == "aa"
    assert child(server) == process
    deadline = time.monotonic() + 10
    while server.metrics()["moorage_server_requests_in_flight"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert server.terminate() == 0
    assert not [line for line in server.log if line.get("level") == "error"]
