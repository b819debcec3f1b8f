"""A server that cannot serve: exit code, termination message, and a log without stack traces."""

import asyncio
import json
import socket
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest
import structlog
import torch
from torch import nn

from moorage_server import lifecycle
from moorage_server.failures import DeviceLost
from moorage_server.settings import Settings
from moorage_server.signature import Array, Dim, Signature, TensorSpec

from .conftest import Server, Start


def ended(server: Server) -> tuple[int, str, str]:
    code = server.process.wait(90)
    message = server.termination
    assert set(message) == {"reason", "message", "time"}
    log = server.log_file.read_text()
    assert "Traceback" not in log
    assert message["message"] in [line.get("message") for line in server.log]
    return code, message["reason"], message["message"]


def test_no_model(start_server: Start, tmp_path: Path) -> None:
    code, reason, message = ended(start_server(tmp_path / "none", ready=False))
    assert (code, reason, message) == (65, "ModelNotFound", f"{tmp_path}/none does not exist")


def test_a_pickle(start_server: Start, tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "model.pt")
    code, reason, message = ended(start_server(tmp_path, ready=False, MOORAGE_MODEL_FORMAT="TorchScript"))
    assert (code, reason) == (65, "UnsafeModel")
    assert "torch.export.save" in message


def test_a_wrong_digest(start_server: Start, classifier: Path) -> None:
    code, reason, message = ended(start_server(classifier, ready=False, MOORAGE_MODEL_SHA256="ab" * 32))
    assert (code, reason) == (65, "DigestMismatch")
    assert "ab" * 32 in message


def test_a_trace_at_debug(start_server: Start, tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(b"PK\x03\x04")
    server = start_server(tmp_path, ready=False, MOORAGE_LOG_LEVEL="debug")
    assert server.process.wait(90) == 65
    assert server.termination["reason"] == "ModelCorrupt"
    assert "Traceback" in server.log_file.read_text()


def test_a_setting_that_makes_no_sense(start_server: Start, classifier: Path) -> None:
    code, reason, message = ended(start_server(classifier, ready=False, MOORAGE_DEVICE="TPU"))
    assert (code, reason) == (78, "InvalidConfiguration")
    assert message == "MOORAGE_DEVICE is 'TPU'; it may be Auto, CPU, CUDA"


def test_a_port_in_use(start_server: Start, classifier: Path) -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, reason, message = ended(start_server(classifier, ready=False, MOORAGE_METRICS_PORT=port))
    assert (code, reason) == (78, "InvalidConfiguration")
    assert f"cannot listen on port {port}" in message


async def test_a_device_that_breaks_ends_the_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In this process, for there is no device here that could be broken: the model says that it is."""

    class Broken:
        signature = Signature((TensorSpec("x", "FP32", (Dim(-1),)),), (TensorSpec("y", "FP32", (Dim(-1),)),))

        def run(self, inputs: Sequence[Array]) -> list[Array]:
            raise DeviceLost("CUDA error: unspecified launch failure")

    monkeypatch.setenv("MOORAGE_TERMINATION_LOG", str(tmp_path / "termination"))
    monkeypatch.setattr(lifecycle, "_load", lambda settings: (Broken(), "cuda"))
    with structlog.testing.capture_logs() as lines:
        server = asyncio.create_task(lifecycle.run(Settings(tmp_path, "m", http_port=0, metrics_port=0)))
        async with asyncio.timeout(120):
            while "ready" not in [line["event"] for line in lines]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            url = f"http://127.0.0.1:{lines[0]['http']}/v2/models/m/infer"
            body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]}
            async with httpx.AsyncClient() as client:
                assert (await client.post(url, json=body)).status_code == 503
            assert await server == 1
    message = json.loads((tmp_path / "termination").read_text())
    assert message["reason"] == "DeviceUnavailable"
    assert message["message"] == "the model cannot run any more: CUDA error: unspecified launch failure"
