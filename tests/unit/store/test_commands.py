"""`python -m moorage_store` as init containers call it: exit codes, termination message, no stack traces."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from moorage_store.__main__ import main
from moorage_store.digest import sha256_of

from .conftest import Site

PACKAGES = Path(__file__).parents[3] / "images" / "torch"


def start(tmp_path: Path, *arguments: object, **env: str) -> subprocess.Popen[str]:
    settings = {"PYTHONPATH": str(PACKAGES), "MOORAGE_TERMINATION_LOG": str(tmp_path / "log"), **env}
    argv = [sys.executable, "-m", "moorage_store", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(argv, env={**os.environ, **settings}, stdout=pipe, stderr=subprocess.STDOUT, text=True)


def run(tmp_path: Path, *arguments: object, **env: str) -> tuple[int, str, dict[str, Any]]:
    process = start(tmp_path, *arguments, **env)
    output, _ = process.communicate(timeout=60)
    log = tmp_path / "log"
    return process.returncode, output, json.loads(log.read_text()) if log.exists() else {}


def test_fetch(site: Site, tmp_path: Path) -> None:
    site.files["/a"] = b"content"
    code, output, log = run(tmp_path, "fetch", site.url("/a"), tmp_path / "a")
    assert code == 0, output
    # What the operator makes the ladder of a cold start from.
    assert set(log) == {"reason", "bytes", "seconds", "time"}
    assert (log["reason"], log["bytes"]) == ("Fetched", 7)
    assert 0 < log["seconds"] < 60
    code, _, log = run(tmp_path, "fetch", site.url("/a"), tmp_path / "a", "--allow-existing")
    assert (code, log["reason"], log["bytes"]) == (0, "Fetched", 0)


@pytest.mark.parametrize("arguments", [[], ["fetch"], ["verify", "/x", "--sha"], ["bogus", "größe"]])
def test_arguments_that_make_no_sense(tmp_path: Path, arguments: list[str]) -> None:
    code, output, log = run(tmp_path, *arguments)
    assert (code, log["reason"]) == (64, "InvalidConfiguration"), output
    assert "usage: python -m moorage_store" in log["message"]


FAILURES = {
    "ftp://host/x": (64, "InvalidConfiguration", "pvc://CLAIM/PATH"),
    "/plain/path": (64, "InvalidConfiguration", "pvc://CLAIM/PATH"),
    "http://user:word@host/x": (64, "InvalidConfiguration", "Secret"),
    "s3://bucket/../x": (64, "InvalidConfiguration", "'..'"),
    "pvc://claim/x": (64, "InvalidConfiguration", "mounted"),
}


@pytest.mark.parametrize("uri", FAILURES)
def test_bad_uris(tmp_path: Path, uri: str) -> None:
    code, output, log = run(tmp_path, "fetch", uri, tmp_path / "a")
    expected, reason, words = FAILURES[uri]
    assert (code, log["reason"]) == (expected, reason)
    assert words in log["message"]
    assert "Traceback" not in output
    assert "word@" not in output


def test_not_found_and_wrong_digest(site: Site, tmp_path: Path) -> None:
    code, output, log = run(tmp_path, "fetch", site.url("/a"), tmp_path / "a")
    assert (code, log["reason"]) == (66, "ModelNotFound"), output
    site.files["/a"] = b"content"
    code, output, log = run(tmp_path, "fetch", site.url("/a"), tmp_path / "a", "--sha256", "0" * 64)
    assert (code, log["reason"]) == (65, "DigestMismatch"), output


def test_verify(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.pt2").write_bytes(b"x")
    assert run(tmp_path, "verify", model, "--sha256", sha256_of(model).upper())[0] == 0
    assert run(tmp_path, "verify", model, "--sha256", "")[0] == 0
    code, _, log = run(tmp_path, "verify", model, "--sha256", "0" * 64)
    assert (code, log["reason"]) == (65, "DigestMismatch")
    code, _, log = run(tmp_path, "verify", tmp_path / "absent")
    assert (code, log["reason"]) == (66, "ModelNotFound")


def test_sigterm_ends_a_slow_fetch_at_once(site: Site, tmp_path: Path) -> None:
    # Nobody takes the connection: the kernel accepts it, and no answer ever comes.
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        process = start(tmp_path, "fetch", f"http://127.0.0.1:{silent.getsockname()[1]}/a", tmp_path / "a")
        silent.settimeout(20)
        connection, _ = silent.accept()
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert process.wait(20) == 75
        connection.close()
    assert time.monotonic() - began < 15  # and not the 60 s for which an answer is waited
    assert json.loads((tmp_path / "log").read_text())["reason"] == "Terminated"


def test_triton_repository(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.mkdir()
    (config / "config.pbtxt").write_text("backend: 'python'")
    model = tmp_path / "model.pt2"
    model.write_bytes(b"model")
    arguments = ("triton-repository", "--config-dir", config, "--dest", tmp_path / "models", "--name", "digits")
    code, _, log = run(tmp_path, *arguments, "--model", tmp_path / "absent.pt2")
    assert log["reason"] == "ModelNotFound"
    arguments = (*arguments, "--model", model)
    for _ in range(2):
        code, output, _ = run(tmp_path, *arguments, "--version", "3")
        assert code == 0, output
    files = sorted(str(path.relative_to(tmp_path / "models")) for path in (tmp_path / "models").rglob("*.*"))
    assert files == ["digits/3/model.py", "digits/config.pbtxt"]
    assert "class TritonPythonModel" in (tmp_path / "models/digits/3/model.py").read_text()

    code, _, log = run(tmp_path, *arguments, "--version", "v3")
    assert (code, log["reason"]) == (64, "InvalidConfiguration")
    assert "whole numbers" in log["message"]
    (config / "config.pbtxt").unlink()
    code, _, log = run(tmp_path, *arguments)
    assert (code, log["reason"]) == (64, "InvalidConfiguration")


def test_what_nobody_thought_of_still_leaves_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise TypeError("a mistake\nin two lines")

    monkeypatch.setenv("MOORAGE_TERMINATION_LOG", str(tmp_path / "log"))
    monkeypatch.setattr("moorage_store.__main__._end_on_sigterm", lambda: None)
    monkeypatch.setattr("moorage_store.fetch.verify", fail)
    with pytest.raises(SystemExit) as end:
        main(["verify", str(tmp_path)])
    log = json.loads((tmp_path / "log").read_text())
    assert (end.value.code, log["reason"], log["message"]) == (1, "InternalError", "verify: TypeError: a mistake")


def test_an_image_without_obstore_is_told_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "obstore.py").write_text("raise ModuleNotFoundError(\"No module named 'obstore'\")")
    path = f"{tmp_path}{os.pathsep}{PACKAGES}"
    code, output, log = run(tmp_path, "fetch", "s3://models/x", tmp_path / "a", PYTHONPATH=path)
    assert (code, log["reason"]) == (64, "InvalidConfiguration"), output
    assert "pip install obstore" in log["message"]
