"""The generated schemas are structural, bounded and described; what cannot be said is refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from moorage.api.crd import crds
from moorage.api.schema import structural
from moorage.cli import crd_files

ROOT = Path(__file__).parents[3]
CRDS = {crd["spec"]["names"]["kind"]: crd["spec"]["versions"][0] for crd in crds()}
# Of Kubernetes' own making, or without a place for more words.
UNDESCRIBED = {".metadata"}
KNOWN = {
    "type", "description", "properties", "required", "items", "additionalProperties", "enum", "default", "format",
    "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "pattern",
    "anyOf", "x-kubernetes-validations", "x-kubernetes-list-type", "x-kubernetes-list-map-keys",
    "x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields",
}  # fmt: skip


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, sub in schema.get("properties", {}).items():
        yield from nodes(sub, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from nodes(schema[key], f"{path}[]")


ALL = [
    pytest.param(path, node, id=f"{kind}{path}")
    for kind, version in CRDS.items()
    for path, node in nodes(version["schema"]["openAPIV3Schema"])
]
SPEC = [case for case in ALL if ".spec" in case.id]


@pytest.mark.parametrize(("path", "node"), ALL)
def test_structural(path: str, node: dict[str, Any]) -> None:
    assert set(node) <= KNOWN
    assert "type" in node or node.get("x-kubernetes-int-or-string")
    for branch in node.get("anyOf", []):
        assert node.get("x-kubernetes-int-or-string") and set(branch) == {"type"}
    if node.get("type") == "array":
        assert node["x-kubernetes-list-type"] in ("atomic", "set", "map")
    assert not isinstance(node.get("additionalProperties"), bool)


@pytest.mark.parametrize(("path", "node"), ALL)
def test_described(path: str, node: dict[str, Any]) -> None:
    if path not in UNDESCRIBED and not path.endswith("[]"):
        assert len(node["description"]) > 8 or path in (".kind", ".apiVersion")


@pytest.mark.parametrize(("path", "node"), SPEC)
def test_bounded(path: str, node: dict[str, Any]) -> None:
    """What a user may write has an end: a rule's cost depends on it, and so does etcd."""
    if node.get("type") == "array":
        assert "maxItems" in node
    if node.get("type") == "string" and "enum" not in node:
        assert "maxLength" in node
    if node.get("type") == "integer":
        assert {"minimum", "maximum"} <= set(node)
    if "additionalProperties" in node:
        assert "maxProperties" in node


@pytest.mark.parametrize(("path", "node"), SPEC)
def test_a_default_is_said_in_the_description(path: str, node: dict[str, Any]) -> None:
    """kubectl explain does not show defaults."""
    if "default" in node:
        assert "Default" in node["description"]
        assert str(node["default"]) in node["description"]


def test_the_files_are_the_generated_ones() -> None:
    for name, text in crd_files().items():
        assert (ROOT / "crds" / name).read_text() == text, "run `make crds`"


def test_small_enough_for_client_side_apply() -> None:
    """kubectl apply keeps a copy in an annotation, which may have 262,144 bytes."""
    for name, text in crd_files().items():
        assert len(text) < 100_000, name


def test_scale_is_where_kubectl_looks() -> None:
    assert CRDS["ModelDeployment"]["subresources"]["scale"] == {
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    }
    assert "status" in CRDS["TrainingJob"]["subresources"]


class Tree(BaseModel):
    children: list["Tree"] = []


def test_recursion_is_refused() -> None:
    with pytest.raises(ValueError, match="Tree contains itself"):
        structural(Tree)
