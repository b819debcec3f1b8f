"""Every resource this repository shows anywhere: the golden cases and the folders of examples, by name."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from moorage.api.names import API_VERSION
from moorage.desired.defaults import Defaults

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden"
Manifest = dict[str, Any]

DEFAULTS = Defaults(
    torch_image="registry.example.com/moorage/torch:1",
    triton_image="registry.example.com/moorage/triton:1",
    image_pull_policy="IfNotPresent",
    image_pull_secrets=("registry",),
    pod_monitors=True,
    pod_monitor_labels=(("release", "prometheus"),),
)
"""The operator's settings for all of them."""


def cases() -> Iterator[tuple[str, list[Manifest]]]:
    """A name and the resources of ours that belong together."""
    for file in sorted(GOLDEN.glob("*/in.yaml")):
        yield f"golden-{file.parent.name}", ours(file)
    for folder in sorted(path for path in (ROOT / "examples").iterdir() if path.is_dir()):
        if found := [each for file in sorted(folder.glob("*.yaml")) for each in ours(file)]:
            yield f"example-{folder.name}", found


def ours(file: Path) -> list[Manifest]:
    return [doc for doc in yaml.safe_load_all(file.read_text()) if doc and doc.get("apiVersion") == API_VERSION]
