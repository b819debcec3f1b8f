"""A server that cannot serve: exit code, termination message, and a log without stack traces."""

import asyncio
import json
import os
import socket
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest
import structlog
import torch
from torch import nn

from moorage_server import __main__, lifecycle, repository
from moorage_server.engine import Engine
from moorage_server.failures import DeviceLost, StartupError
from moorage_server.settings import Settings, Source
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
    assert (code, reason) == (78, "PortInUse")
    assert f"cannot listen on port {port}: " in message


async def test_a_device_that_breaks_ends_the_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In this process, for there is no device here that could be broken: the model says that it is."""
    error = await end_of_a_server_whose_model_raises(DeviceLost(BROKEN), monkeypatch, tmp_path)
    assert isinstance(error, StartupError)
    assert (error.reason, error.exit_code) == ("DeviceUnavailable", 1)
    assert error.message == f"the model cannot run any more: {BROKEN}"


async def test_a_mistake_of_ours_ends_the_server_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What an engine never should raise is not called a broken device."""
    monkeypatch.setattr(Engine, "_run", lambda self, batch: 1 / 0)
    error = await end_of_a_server_whose_model_raises(RuntimeError(), monkeypatch, tmp_path)
    assert isinstance(error, ZeroDivisionError)


BROKEN = "CUDA error: unspecified launch failure"


async def end_of_a_server_whose_model_raises(
    raised: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Exception:
    class Broken:
        signature = Signature((TensorSpec("x", "FP32", (Dim(-1),)),), (TensorSpec("y", "FP32", (Dim(-1),)),))
        device, warm_up_seconds, batch_seconds, bytes, inline = "cuda", 0.0, {1: 0.001}, 4, True
        preprocess, weights = None, ""

        def run(self, inputs: Sequence[Array]) -> list[Array]:
            raise raised

    monkeypatch.setattr(repository, "_loader", lambda settings: lambda source, known: Broken())
    with structlog.testing.capture_logs() as lines:
        server = asyncio.create_task(lifecycle.run(Settings((Source(tmp_path, "m"),), http_port=0, metrics_port=0)))
        async with asyncio.timeout(120):
            while "ready" not in [line["event"] for line in lines]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            url = f"http://127.0.0.1:{lines[0]['http']}/v2/models/m/infer"
            body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]}
            async with httpx.AsyncClient() as client:
                assert (await client.post(url, json=body)).status_code == 503
            with pytest.raises(Exception) as ended:
                await server
    return ended.value


def test_what_nobody_thought_of_still_leaves_a_word(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def fail(settings: Settings) -> int:
        raise TypeError("a mistake\nin two lines")

    monkeypatch.setenv("MOORAGE_TERMINATION_LOG", str(tmp_path / "termination"))
    monkeypatch.setenv("MOORAGE_MODEL_PATH", "/model")
    monkeypatch.setenv("MOORAGE_MODEL_NAME", "m")
    monkeypatch.setattr(lifecycle, "run", fail)
    assert __main__.main() == 1
    message = json.loads((tmp_path / "termination").read_text())
    assert (message["reason"], message["message"]) == ("InternalError", "TypeError: a mistake")


def test_names_that_are_no_text(start_server: Start, tmp_path: Path) -> None:
    """Bytes in a file's name that are no UTF-8 are told, and do not break the telling."""
    (tmp_path / "größe-模型").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path / "größe-模型") + b"/\xff.pt")).touch()
    server = start_server(tmp_path / "größe-模型", ready=False)
    assert server.process.wait(90) == 65
    assert server.termination["reason"] == "ModelNotFound"
    assert "größe-模型 holds no model.pt2; it holds" in server.termination["message"]
    assert "cannot serve" in [line["event"] for line in server.log]
