"""Leaves the model and its description in a folder, as `docs/contracts.md` says, and loads it again to be sure."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

FILES = {"TorchExport": "model.pt2", "TorchScript": "model.pt"}


class BadExport(Exception):
    """The exported model does not say what the trained one says."""


def save(
    model: nn.Module,
    examples: Tensor,
    folder: Path,
    *,
    form: str,
    classes: list[int] | list[str] | None,
    metrics: dict[str, float],
) -> None:
    """`examples`: some rows of input, for tracing and for the comparison."""
    path = folder / FILES[form]
    with torch.no_grad():
        expected = _as_tuple(model(examples))
        if form == "TorchExport":
            batch = torch.export.Dim("batch", min=1)
            program = torch.export.export(model, (examples,), dynamic_shapes=({0: batch},))
            torch.export.save(program, path)
            loaded: Any = torch.export.load(path).module()
        else:
            torch.jit.trace(model, examples).save(str(path))  # type: ignore[no-untyped-call]
            loaded = torch.jit.load(str(path))  # type: ignore[no-untyped-call]
        for rows in (len(examples), 1):
            for wanted, given in zip(expected, _as_tuple(loaded(examples[:rows])), strict=True):
                if not torch.allclose(wanted[:rows].double(), given.double(), atol=1e-4, rtol=1e-3):
                    raise BadExport(f"{path.name} gives other results than the trained model")
    outputs = ["probabilities", "label"] if classes is not None else ["y"]
    description: dict[str, Any] = {
        "format": form,
        "task": "classification" if classes is not None else "regression",
        "inputs": [_described("x", examples)],
        "outputs": [_described(name, value) for name, value in zip(outputs, expected, strict=True)],
        "metrics": metrics,
    }
    if classes is not None:
        description["classes"] = classes
    # JSON is YAML, and Triton's Python may have no YAML library. One key a line keeps it readable.
    lines = (f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in description.items())
    (folder / "moorage.yaml").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _as_tuple(value: Any) -> tuple[Tensor, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _described(name: str, value: Tensor) -> dict[str, Any]:
    datatype = {torch.float32: "FP32", torch.int64: "INT64"}[value.dtype]
    return {"name": name, "datatype": datatype, "shape": [-1, *value.shape[1:]]}
