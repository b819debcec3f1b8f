"""The manifests of examples/, by folder."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
FILES = sorted(EXAMPLES.rglob("*.yaml"))
FOLDERS = sorted({file.parent for file in FILES})
OURS = "moorage.dev/v1alpha1"

Manifest = dict[str, Any]


@cache
def load(file: Path) -> tuple[Manifest, ...]:
    return tuple(m for m in yaml.safe_load_all(file.read_text()) if m)


def of(folder: Path, kind: str = "") -> list[Manifest]:
    return [m for file in sorted(folder.glob("*.yaml")) for m in load(file) if kind in ("", m["kind"])]


def program(folder: str, config_map: str, key: str) -> str:
    """The text of a program that lies in a ConfigMap."""
    (found,) = (m for m in of(EXAMPLES / folder, "ConfigMap") if m["metadata"]["name"] == config_map)
    text: str = found["data"][key]
    return text
