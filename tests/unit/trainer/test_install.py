"""The launcher copied into an image of the user's: it needs Python, torch and nothing else."""

import json
import subprocess
import sys
from pathlib import Path

from moorage_trainer.install import install

from .conftest import PACKAGES

# Refuses everything that is not torch's or the standard library's, as an image with torch alone would.
CHECK = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("obstore", "yaml", "aiohttp", "structlog", "pyarrow", "prometheus_client", "moorage"):
            raise ModuleNotFoundError(f"{name} is not in this image")
sys.meta_path.insert(0, Absent())
sys.path.insert(0, FOLDER)
import moorage_trainer.launch
assert moorage_trainer.__file__.startswith(FOLDER), moorage_trainer.__file__
from moorage_trainer import launch, settings
try:
    launch.main(["--", sys.executable, "-c", "import os; open(os.environ['MOORAGE_OUTPUT_DIR'] + '/model.pt2', 'w')"])
finally:
    sys.stdout.flush()
"""


def test_runs_with_torch_alone(tmp_path: Path) -> None:
    install(tmp_path / "lib")
    assert sorted(path.name for path in (tmp_path / "lib").iterdir()) == ["moorage_store", "moorage_trainer"]
    env = {
        "PATH": "/usr/bin:/bin",
        "TMPDIR": str(tmp_path),
        "MOORAGE_OUTPUT_URI": "pvc://models/x",
        "MOORAGE_OUTPUT_MOUNT": str(tmp_path / "models" / "x"),
        "MOORAGE_STATUS_PORT": "0",
        "PET_RDZV_BACKEND": "c10d",
        "PET_RDZV_ENDPOINT": "localhost:0",
        "PET_RDZV_ID": "1",
    }
    code = CHECK.replace("FOLDER", repr(str(tmp_path / "lib")))
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "models" / "x" / "model.pt2").exists()


def test_a_folder_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "lib").touch()
    log = tmp_path / "log"
    environ = {"PYTHONPATH": str(PACKAGES), "MOORAGE_TERMINATION_LOG": str(log)}
    argv = [sys.executable, "-m", "moorage_trainer.install", str(tmp_path / "lib")]
    ended = subprocess.run(argv, env=environ, timeout=60, capture_output=True)
    told = json.loads(log.read_text())
    assert (ended.returncode, told["reason"]) == (1, "InternalError")
    assert f"the launcher cannot be copied to {tmp_path}/lib: " in told["message"]


def test_a_second_time_is_harmless(tmp_path: Path) -> None:
    install(tmp_path)
    install(tmp_path)
