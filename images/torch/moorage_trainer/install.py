"""`python -m moorage_trainer.install FOLDER`: copies the launcher where an image without it finds it by PYTHONPATH."""

import shutil
import sys
from pathlib import Path

import moorage_store
import moorage_trainer
from moorage_store import termination


def install(folder: Path) -> None:
    for package in (moorage_store, moorage_trainer):
        source = Path(str(package.__file__)).parent
        ignored = shutil.ignore_patterns("__pycache__")  # of another Python than the one that will run it
        shutil.copytree(source, folder / source.name, ignore=ignored, dirs_exist_ok=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        termination.fail(termination.USAGE, "InvalidConfiguration", "usage: python -m moorage_trainer.install FOLDER")
    try:
        install(Path(sys.argv[1]))
    except (OSError, shutil.Error) as error:
        termination.fail(
            1, "InternalError", f"the launcher cannot be copied to {sys.argv[1]}: {termination.one_line(error)}"
        )
