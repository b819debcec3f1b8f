"""Each folder of examples is complete in itself: what a manifest names is in the same folder."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.manifests import EXAMPLES, FOLDERS, Manifest, of

USABLE = [folder for folder in FOLDERS if folder.name != "argocd"]


def uris(manifest: Manifest) -> list[str]:
    spec = manifest["spec"]
    blocks = [spec.get("model", {}), spec.get("data", {}), spec.get("output", {})]
    return [block["uri"] for block in blocks if "uri" in block]


def blocks(value: Any, key: str) -> Iterator[Any]:
    """Everything that stands under this key, however deep."""
    if isinstance(value, dict):
        for name, sub in value.items():
            if name == key:
                yield sub
            yield from blocks(sub, key)
    elif isinstance(value, list):
        for sub in value:
            yield from blocks(sub, key)


def names(folder: Path, kind: str) -> set[str]:
    return {m["metadata"]["name"] for m in of(folder, kind)}


@pytest.mark.parametrize("folder", USABLE, ids=lambda f: f.name)
def test_what_is_named_is_there(folder: Path) -> None:
    ours = of(folder, "ModelDeployment") + of(folder, "TrainingJob")
    assert ours
    for manifest in ours:
        for uri in uris(manifest):
            scheme, _, rest = uri.partition("://")
            name, _, key = rest.partition("/")
            if scheme == "pvc":
                assert name in names(folder, "PersistentVolumeClaim"), uri
            elif scheme == "configmap":
                (data,) = (m for m in of(folder, "ConfigMap") if m["metadata"]["name"] == name)
                assert key in {**data.get("data", {}), **data.get("binaryData", {})}, uri
        for reference in blocks(manifest["spec"], "secretRef"):
            assert reference["name"] in names(folder, "Secret")
        for reference in blocks(manifest["spec"], "configMap"):
            assert reference["name"] in names(folder, "ConfigMap")


@pytest.mark.parametrize("folder", USABLE, ids=lambda f: f.name)
def test_a_training_is_followed_by_one_deployment_at_least(folder: Path) -> None:
    labels = [m["metadata"].get("labels", {}).items() for m in of(folder, "TrainingJob")]
    for manifest in of(folder, "ModelDeployment"):
        wanted = manifest["spec"].get("model", {}).get("fromTrainingJobs", {}).get("matchLabels", {})
        assert not wanted or any(wanted.items() <= have for have in labels)


@pytest.mark.parametrize("folder", USABLE, ids=lambda f: f.name)
def test_fits_a_laptop(folder: Path) -> None:
    for manifest in of(folder, "ModelDeployment") + of(folder, "TrainingJob"):
        resources = manifest["spec"]["resources"]
        assert resources["requests"]["cpu"] in {"10m", "50m"}
        assert "memory" in resources["limits"]


def test_the_quickstart_is_in_the_default_namespace() -> None:
    """So that it lands there whatever namespace the reader's context is in."""
    assert {m["metadata"].get("namespace") for m in of(EXAMPLES / "quickstart")} == {"default"}


def test_argocd_names_what_is_in_this_repository() -> None:
    for application in of(EXAMPLES / "argocd", "Application"):
        assert (EXAMPLES.parent / application["spec"]["source"]["path"]).is_dir()
