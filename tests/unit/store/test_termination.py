"""The termination message fits what the kubelet keeps, and stays JSON however much there is to say."""

import json
from pathlib import Path
from typing import Any

import pytest

from moorage_store import termination


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "termination-log"
    monkeypatch.setenv("MOORAGE_TERMINATION_LOG", str(path))
    return path


def read(log: Path) -> dict[str, Any]:
    data = log.read_bytes()
    assert len(data) <= termination.MAX_BYTES
    body: dict[str, Any] = json.loads(data)
    return body


def test_failure_carries_reason_words_and_extras(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        termination.fail(termination.DATA, "ModelCorrupt", "model.pt2 is no archive", rank=3)
    assert ended.value.code == 65
    body = read(log)
    assert (body["reason"], body["message"], body["rank"]) == ("ModelCorrupt", "model.pt2 is no archive", 3)
    assert body["time"].endswith("Z")
    assert capsys.readouterr().err == "ModelCorrupt: model.pt2 is no archive\n"


def test_old_lines_give_way_before_words_do(log: Path) -> None:
    termination.write("ScriptFailed", "ValueError: no", lastLines=[f"{i} " + "ü" * 300 for i in range(50)])
    body = read(log)
    assert body["message"] == "ValueError: no"
    assert body["lastLines"][-1].startswith("49 ")
    assert not body["lastLines"][0].startswith("0 ")


@pytest.mark.parametrize("text", ["x" * 100_000, '"\\\n' * 50_000, "😀" * 50_000, "\udcff" * 9_000])
def test_any_message_fits(log: Path, text: str) -> None:
    termination.write("ScriptFailed", text, lastLines=[text])
    assert read(log)["message"]
    termination.write(text, text)  # a script may name a reason of its own
    assert read(log)["reason"]


def test_extras_that_cannot_fit_are_left_out_whole(log: Path) -> None:
    output = {"uri": "pvc://models/digits/1", "sha256": "ab" * 32, "sizeBytes": 1}
    termination.write("Succeeded", metrics={f"metric-{i}": float(i) for i in range(1000)}, output=output)
    assert read(log).keys() == {"reason", "output", "time"}


def test_without_a_place_to_write_the_program_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOORAGE_TERMINATION_LOG", str(tmp_path / "no" / "such" / "folder"))
    termination.write("Succeeded")
