"""The formats of models: the file by which each is known, and finding it. Needs no torch, as not every format does."""

from pathlib import Path

from moorage_store.errors import NotFound, StoreError
from moorage_store.termination import DATA

FILES = {
    "TorchExport": "model.pt2", "TorchScript": "model.pt", "AOTInductor": "model.pt2", "ONNX": "model.onnx",
    "Python": "model.py", "Safetensors": "model.safetensors",
}  # fmt: skip
FOLDERS = ("Python", "Safetensors")
"""Those whose file alone is no model: it needs what lies beside it."""


class FormatMismatch(StoreError):
    reason = "FormatMismatch"
    code = DATA


class NotThere(NotFound):
    """The folder is there and the model in it is not: no other try will find it."""

    code = DATA


def find(path: Path, wanted: str) -> Path:
    """The model's file: `path` itself, or in that folder. Raises StoreError."""
    if path.is_file():
        if wanted in FOLDERS:
            raise FormatMismatch(f"{path} is a file; a model of format {wanted} is a folder with {FILES[wanted]}")
        return path
    if not path.is_dir():
        raise NotThere(f"{path} does not exist")
    if (file := path / FILES[wanted]).is_file():
        return file
    for other, name in FILES.items():
        if (path / name).is_file():
            raise FormatMismatch(f"{path} holds {name}, which is {other}; set the format to {other}")
    found = ", ".join(sorted(entry.name for entry in path.iterdir())[:10]) or "nothing"
    raise NotThere(f"{path} holds no {FILES[wanted]}; it holds {found}")
