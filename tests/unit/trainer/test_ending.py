"""The last words of a launcher: one for every end, and a success stays one."""

import json
import subprocess
import sys
from pathlib import Path

from .conftest import PACKAGES

LATE_SIGTERM = """
import os, signal, sys
from moorage_trainer import ending
ending.GRACE_SECONDS = 0
ending.on_sigterm()
ending.finish_first()
ending.succeeded(metrics={})
os.kill(os.getpid(), signal.SIGTERM)
import time; time.sleep(30)
"""


def test_a_sigterm_after_success_does_not_take_it_back(tmp_path: Path) -> None:
    log = tmp_path / "log"
    environ = {"PYTHONPATH": str(PACKAGES), "MOORAGE_TERMINATION_LOG": str(log)}
    ended = subprocess.run([sys.executable, "-c", LATE_SIGTERM], env=environ, timeout=60)
    assert (ended.returncode, json.loads(log.read_text())["reason"]) == (0, "Succeeded")


def test_an_image_with_an_old_python_is_told_so(tmp_path: Path) -> None:
    program = "from moorage_trainer import launch\nlaunch.OLDEST = (9, 9)\nlaunch.main(['--', 'true'])"
    log = tmp_path / "log"
    environ = {"PYTHONPATH": str(PACKAGES), "MOORAGE_TERMINATION_LOG": str(log)}
    ended = subprocess.run([sys.executable, "-c", program], env=environ, timeout=60, capture_output=True)
    told = json.loads(log.read_text())
    assert (ended.returncode, told["reason"]) == (64, "InvalidConfiguration")
    assert "the image needs Python 9.9 or later; it has 3." in told["message"]


def test_a_launcher_without_a_place_for_its_files_leaves_a_word(tmp_path: Path) -> None:
    program = "import tempfile, runpy, sys\ntempfile.tempdir = '/proc/none'\n"
    program += "sys.argv = ['launch', '--', 'true']\nrunpy.run_module('moorage_trainer.launch', run_name='__main__')"
    log = tmp_path / "log"
    environ = {"PYTHONPATH": str(PACKAGES), "MOORAGE_TERMINATION_LOG": str(log)}
    ended = subprocess.run([sys.executable, "-c", program], env=environ, timeout=60, capture_output=True)
    told = json.loads(log.read_text())
    assert (ended.returncode, told["reason"]) == (1, "InternalError")
    assert "FileNotFoundError" in told["message"]
