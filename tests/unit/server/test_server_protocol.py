"""The protocol over HTTP, against a real server of a real model."""

import asyncio
import gzip
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from tritonclient import http as triton

from .conftest import CLASSES, FEATURES, Server, Start, export, fp32

ROW = [0.5] * FEATURES


def expected(classifier: Path, rows: list[list[float]]) -> dict[str, torch.Tensor]:
    answer: dict[str, torch.Tensor] = torch.export.load(classifier / "model.pt2").module()(torch.tensor(rows))
    return answer


def test_health(client: httpx.Client) -> None:
    assert (client.get("/v2/health/live").status_code, client.get("/v2/health/live").json()) == (200, {"live": True})
    assert (client.get("/v2/health/ready").status_code, client.get("/v2/health/ready").json()) == (200, {"ready": True})


def test_metadata(client: httpx.Client) -> None:
    assert client.get("/v2").json() == {
        "name": "moorage",
        "version": "0.1.0",
        "extensions": ["binary_tensor_data", "schedule_policy"],
    }
    metadata = client.get("/v2/models/digits").json()
    assert metadata == {
        "name": "digits",
        "versions": ["1"],
        "platform": "pytorch_torchexport",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, FEATURES]}],
        "outputs": [
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, CLASSES]},
            {"name": "label", "datatype": "INT64", "shape": [-1]},
        ],
        "parameters": {"weights": "FP32"},
    }
    assert client.get("/v2/models/digits/versions/1").json() == metadata
    for path in ("/v2/models/digits/ready", "/v2/models/digits/versions/1/ready"):
        assert client.get(path).json() == {"name": "digits", "ready": True}


@pytest.mark.parametrize("version", ["", "/versions/1"])
def test_infer(client: httpx.Client, classifier: Path, version: str) -> None:
    rows = [ROW, [-1.0] * FEATURES]
    response = client.post(f"/v2/models/digits{version}/infer", json={"id": "q7", "inputs": [fp32(rows)]})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    probabilities, label = answer.pop("outputs")
    assert answer == {"model_name": "digits", "model_version": "1", "id": "q7"}
    want = expected(classifier, rows)
    assert (probabilities["name"], probabilities["datatype"], probabilities["shape"]) == (
        "probabilities",
        "FP32",
        [2, CLASSES],
    )
    np.testing.assert_allclose(probabilities["data"], want["probabilities"].detach().numpy().ravel(), rtol=1e-5)
    assert label == {"name": "label", "datatype": "INT64", "shape": [2], "data": want["label"].tolist()}


def test_selected_outputs(client: httpx.Client) -> None:
    body = {"inputs": [fp32([ROW])], "outputs": [{"name": "label"}]}
    assert [output["name"] for output in client.post("/v2/models/digits/infer", json=body).json()["outputs"]] == [
        "label"
    ]


def test_many_at_once_each_get_their_own_answer(server: Server, classifier: Path) -> None:
    rows = torch.randn(300, FEATURES).tolist()

    async def ask_all() -> list[list[int]]:
        limits = httpx.Limits(max_connections=50)
        async with httpx.AsyncClient(base_url=server.url, limits=limits, timeout=120) as client:

            async def ask(start: int, count: int) -> list[int]:
                response = await client.post(server.infer_path, json={"inputs": [fp32(rows[start : start + count])]})
                response.raise_for_status()
                labels: list[int] = response.json()["outputs"][1]["data"]
                return labels

            # Requests of 1, 2 and 3 rows, in turn.
            return await asyncio.gather(*(ask(start, 1 + start // 2 % 3) for start in range(0, 294, 2)))

    before = server.metrics()
    answers = asyncio.run(ask_all())
    want = expected(classifier, rows)["label"].tolist()
    for start, answer in zip(range(0, 294, 2), answers, strict=True):
        assert answer == want[start : start + 1 + start // 2 % 3]
    after = server.metrics()
    # How many went together is for the engine's tests: this server may be faster than its client.
    batches, ran = (
        after[f"moorage_server_batch_size_{name}"] - before[f"moorage_server_batch_size_{name}"]
        for name in ("count", "sum")
    )
    assert batches <= len(answers) and ran == sum(len(answer) for answer in answers)


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/v2/models/other", 404, "unknown model 'other'; this server serves 'digits'"),
        ("POST", "/v2/models/other/infer", 404, "unknown model 'other'; this server serves 'digits'"),
        ("GET", "/v2/models/digits/versions/9", 404, "unknown version '9' of 'digits'; this server serves '1'"),
        ("POST", "/v2/models/digits/versions/9/infer", 404, "unknown version '9' of 'digits'; this server serves '1'"),
        ("GET", "/v2/models/digits/versions/9/ready", 404, "unknown version '9'"),
        ("GET", "/v1/models", 404, "no such path; there are /v2/health/{live,ready}"),
        ("GET", "/v2/models/digits/infer", 405, "GET is not allowed here; use POST"),
        ("POST", "/v2/health/live", 405, "POST is not allowed here; use GET"),
    ],
)
def test_wrong_paths(client: httpx.Client, method: str, path: str, status: int, words: str) -> None:
    response = client.request(method, path)
    assert response.status_code == status
    assert words in response.json()["error"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "the body is not JSON"),
        (b"{", "the body is not JSON"),
        (b'{"inputs": []}', f"input 'x' FP32 [-1, {FEATURES}] is missing"),
    ],
)
def test_bad_requests(client: httpx.Client, body: bytes, words: str) -> None:
    response = client.post("/v2/models/digits/infer", content=body)
    assert response.status_code == 400
    assert words in response.json()["error"]


def test_a_chunked_body(client: httpx.Client) -> None:
    body = httpx.Request("POST", "http://x", json={"inputs": [fp32([ROW])]}).content
    assert client.post("/v2/models/digits/infer", content=iter([body[:10], body[10:]])).status_code == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_too_large(client: httpx.Client, chunked: bool) -> None:
    body = b" " * 100_001
    response = client.post("/v2/models/digits/infer", content=iter([body]) if chunked else body)
    assert response.status_code == 413
    assert response.json()["error"] == "the body is larger than 100000 bytes"


def test_a_body_as_large_as_allowed(client: httpx.Client) -> None:
    body = httpx.Request("POST", "http://x", json={"inputs": [fp32([ROW])]}).content
    assert client.post("/v2/models/digits/infer", content=body.ljust(100_000)).status_code == 200


def test_a_small_body_that_unpacks_large(client: httpx.Client) -> None:
    headers = {"Content-Encoding": "gzip"}
    response = client.post("/v2/models/digits/infer", content=gzip.compress(b" " * 10_000_000), headers=headers)
    assert response.status_code == 413


def test_the_official_client_reads_it(server: Server, classifier: Path) -> None:
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as client:
        assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("digits")
        assert client.get_model_metadata("digits")["platform"] == "pytorch_torchexport"
        tensor = triton.InferInput("x", [1, FEATURES], "FP32")
        tensor.set_data_from_numpy(np.float32([ROW]), binary_data=False)
        answer = client.infer("digits", [tensor], outputs=[triton.InferRequestedOutput("label", binary_data=False)])
        assert answer.as_numpy("label").tolist() == expected(classifier, [ROW])["label"].tolist()
        with pytest.raises(
            triton.InferenceServerException if hasattr(triton, "InferenceServerException") else Exception
        ):
            client.infer("other", [tensor])


@pytest.mark.parametrize("packed", [None, "gzip", "deflate"])
def test_the_official_client_with_binary_tensors(server: Server, classifier: Path, packed: str | None) -> None:
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as client:
        tensor = triton.InferInput("x", [2, FEATURES], "FP32")
        tensor.set_data_from_numpy(np.float32([ROW, ROW]), binary_data=True)
        outputs = [
            triton.InferRequestedOutput("label"),
            triton.InferRequestedOutput("probabilities", binary_data=False),
        ]
        answer = client.infer("digits", [tensor], outputs=outputs, request_compression_algorithm=packed)
    want = expected(classifier, [ROW, ROW])
    np.testing.assert_array_equal(answer.as_numpy("label"), want["label"])
    np.testing.assert_allclose(answer.as_numpy("probabilities"), want["probabilities"].detach(), rtol=1e-5)


def test_the_repository_index(server: Server) -> None:
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as client:
        assert client.get_model_repository_index() == [
            {"name": "digits", "version": "1", "state": "READY", "reason": ""}
        ]


@pytest.mark.parametrize(
    ("body", "encoding", "status", "words"),
    [
        (b"no gzip", "gzip", 400, "the body cannot be unpacked"),
        (gzip.compress(b"{}", mtime=0)[:-4], "gzip", 400, "it is cut short"),
        (b"{}", "br", 415, "gzip and deflate"),
    ],
    ids=["none", "cut", "another"],
)
def test_packed_otherwise(client: httpx.Client, body: bytes, encoding: str, status: int, words: str) -> None:
    response = client.post("/v2/models/digits/infer", content=body, headers={"Content-Encoding": encoding})
    assert response.status_code == status
    assert words in response.json()["error"]


def test_a_request_the_model_fails_on_fails_alone(start_server: Start, lookup: Path) -> None:
    server = start_server(lookup)

    def ids(value: int) -> dict[str, Any]:
        return {"inputs": [{"name": "ids", "datatype": "INT64", "shape": [1, 2], "data": [value, 0]}]}

    async def ask_all() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
            return await asyncio.gather(*(client.post(server.infer_path, json=ids(value)) for value in range(12)))

    answers = asyncio.run(ask_all())
    assert [answer.status_code for answer in answers] == [200] * 10 + [500] * 2
    assert answers[10].json()["error"].startswith("the model failed on this request: IndexError")
    assert server.terminate() == 0


def test_numbers_that_json_does_not_have(start_server: Start, tmp_path: Path) -> None:
    class Log(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.log()

    server = start_server(export(Log(), (torch.ones(2, 1),), tmp_path))
    response = httpx.post(server.url + server.infer_path, json={"inputs": [fp32([[-1.0], [0.0], [1.0]])]}, timeout=120)
    assert response.json()["outputs"][0]["data"] == [None, None, 0.0]
    assert server.terminate() == 0
