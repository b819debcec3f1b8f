"""Metrics and log of a running server."""

import threading
import time
from pathlib import Path

import httpx

from .conftest import FEATURES, Start, fp32

SECRET = 0.7264519


def test_the_metrics_of_the_contract(start_server: Start, classifier: Path) -> None:
    server = start_server(classifier, MOORAGE_MODEL_VERSION="v7")
    with httpx.Client(base_url=server.url, timeout=120) as client:
        for rows in (1, 2, 5):
            client.post(server.infer_path, json={"inputs": [fp32([[0.5] * FEATURES] * rows)]})
        client.post(server.infer_path, content=b"{")
        client.get("/v2/health/ready")
    metrics = server.metrics()
    labels = 'model="digits",version="v7"'
    assert metrics[f'moorage_server_requests_total{{code="200",{labels}}}'] == 3
    assert metrics[f'moorage_server_requests_total{{code="400",{labels}}}'] == 1
    assert metrics[f"moorage_server_request_duration_seconds_count{{{labels}}}"] == 4
    # One, two and five rows, in batches of at most eight or more, four, two or one: what was measured to be quickest.
    assert metrics["moorage_server_batch_size_count"] in (3, 4, 5, 8)
    assert metrics["moorage_server_batch_size_sum"] == 8
    assert metrics["moorage_server_requests_in_flight"] == 0
    assert metrics["moorage_server_queue_size"] == metrics["moorage_server_queue_oldest_seconds"] == 0
    for what in ("queue", "forward"):
        assert metrics[f"moorage_server_{what}_duration_seconds_count{{{labels}}}"] == 3
        assert metrics[f"moorage_server_{what}_duration_seconds_sum{{{labels}}}"] > 0
    assert metrics["moorage_server_in_flight_seconds_total"] > 0
    assert metrics["moorage_server_model_load_seconds"] > 0
    assert metrics["moorage_server_warm_up_seconds"] > 0
    told = f'device="cpu",format="TorchExport",{labels.split(",")[0]},sha256="",version="v7",weights="FP32"'
    info = f"moorage_server_model_info{{{told}}}"
    assert metrics[info] == 1
    assert metrics["process_resident_memory_bytes"] > 0
    assert server.terminate() == 0


def test_requests_in_flight_count_before_they_end(start_server: Start, slow: Path) -> None:
    server = start_server(slow, MOORAGE_MAX_BATCH_SIZE="1")
    body = {"inputs": [fp32([[1.0, 2.0]] * 10)]}  # ten forward passes: a second or more
    thread = threading.Thread(target=lambda: httpx.post(server.url + server.infer_path, json=body, timeout=120))
    thread.start()
    while (first := server.metrics())["moorage_server_requests_in_flight"] != 1:
        time.sleep(0.01)
    time.sleep(0.3)
    second = server.metrics()
    assert second["moorage_server_requests_in_flight"] == 1
    name = "moorage_server_in_flight_seconds_total"
    assert second[name] - first[name] >= 0.3
    thread.join(120)
    assert server.terminate() == 0


def test_the_log_has_no_payload(start_server: Start, classifier: Path) -> None:
    server = start_server(classifier, MOORAGE_LOG_LEVEL="debug")
    with httpx.Client(base_url=server.url, timeout=120) as client:
        rows = [[SECRET] * FEATURES]
        client.post(server.infer_path, json={"inputs": [fp32(rows)]}, headers={"X-Request-Id": "abc"})
        client.post(server.infer_path, json={"inputs": [fp32([[SECRET]])]})
        client.post(server.infer_path, json={"inputs": [{**fp32(rows), "data": [SECRET, "x"]}]})
        client.post(server.infer_path, content=b'{"inputs": [0.7264519')
    assert server.terminate() == 0
    assert str(SECRET) not in server.log_file.read_text()
    lines = [line for line in server.log if line["event"] == "request"]
    assert [(line["status"], line["method"], line["path"]) for line in lines] == [
        (code, "POST", server.infer_path) for code in (200, 400, 400, 400)
    ]
    assert (lines[0]["rows"], lines[0]["request_id"]) == (1, "abc")
    assert "the model takes [-1, 8]" in lines[1]["error"]


def test_the_access_log_is_a_sample(start_server: Start, classifier: Path) -> None:
    server = start_server(classifier)
    with httpx.Client(base_url=server.url, timeout=120) as client:
        for _ in range(200):
            client.post(server.infer_path, json={"inputs": [fp32([[0.5] * FEATURES])]})
    assert server.terminate() == 0
    lines = [line for line in server.log if line["event"] == "request"]
    assert 10 <= len(lines) < 200
