"""What the last release's operator made of every example and golden case: the resources first, then their children.

Files under tests/golden/recorded, one for each case. `make record` (all, or those named in CASES=) writes them anew;
tests/golden/test_recorded.py says when that is right.
"""

import sys
import uuid
from pathlib import Path
from typing import Any

import yaml

from moorage.api.names import API_VERSION
from moorage.cli import dump, render_all
from support.cases import DEFAULTS, GOLDEN, cases

Manifest = dict[str, Any]
FOLDER = GOLDEN / "recorded"
# Both are found again in the children wherever they went, so that a test can put others in their place.
NAMESPACE = "the-recorded-namespace"


def uid(owner: Manifest) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{owner['kind']}/{owner['metadata']['name']}"))


def file(name: str) -> Path:
    return FOLDER / f"{name}.yaml"


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(name: str) -> tuple[list[Manifest], list[Manifest]]:
    """The resources, and the children that were made of them."""
    documents = list(yaml.safe_load_all(file(name).read_text()))
    owners = [doc for doc in documents if doc["apiVersion"] == API_VERSION]
    return owners, [doc for doc in documents if doc["apiVersion"] != API_VERSION]


def main(chosen: list[str]) -> None:
    today = dict(cases())
    for name in chosen or sorted({*today, *names()}):
        if name not in today:
            file(name).unlink()
            continue
        placed = [{**o, "metadata": {**o["metadata"], "namespace": NAMESPACE, "uid": uid(o)}} for o in today[name]]
        file(name).write_text(dump(*placed, *render_all(placed, DEFAULTS)))


if __name__ == "__main__":
    main(sys.argv[1:])
