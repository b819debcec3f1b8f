"""What /progress answers, from what a program writes."""

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from moorage_trainer import report, status


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOORAGE_RUN_DIR", str(tmp_path))
    return tmp_path


def test_percent_and_time_to_go(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(status.time, "monotonic", lambda: clock[0])
    progress = status.Progress(run_dir)
    assert progress.now() == {}
    report.write("progress.json", {"step": 10, "totalSteps": 100, "metrics": {"loss": 1.0}})
    assert progress.now() == {"step": 10, "totalSteps": 100, "metrics": {"loss": 1.0}, "percent": 10}
    clock[0] = 120.0
    report.write("progress.json", {"step": 50, "totalSteps": 100})
    assert progress.now() == {"step": 50, "totalSteps": 100, "percent": 50, "etaSeconds": 25}
    report.write("progress.json", {"step": 100, "totalSteps": 100})
    assert progress.now()["etaSeconds"] == 0


def test_more_than_a_report_is_none(run_dir: Path) -> None:
    (run_dir / "progress.json").write_text('{"step": 1, "x": "' + "x" * report.MAX_BYTES + '"}')
    assert status.Progress(run_dir).now() == {}


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "", "{", "[1]", '"x"', '{"step": "many", "totalSteps": 0}', '{"step": 3}']
)
def test_whatever_a_program_writes_there_is_an_answer(run_dir: Path, text: str) -> None:
    (run_dir / "progress.json").write_text(text)
    assert "percent" not in status.Progress(run_dir).now()


def test_over_http(run_dir: Path) -> None:
    server = status.serve(run_dir, 0)
    try:
        port = server.server_address[1]
        report.write("progress.json", {"step": 1, "totalSteps": 2})

        def get(path: str) -> dict[str, Any]:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                body: dict[str, Any] = json.load(answer)
                return body

        assert get("/progress")["percent"] == 50
        report.write("progress.json", {"metrics": {"loss": float("nan"), "größe": [float("-inf"), 1]}})
        assert get("/progress") == {"metrics": {"loss": None, "größe": [None, 1]}}
        assert get("/healthz") == {"status": "ok"}
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get("/")
    finally:
        server.shutdown()
        server.server_close()
