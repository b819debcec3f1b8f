"""Every example is valid to the last field: for the pydantic models, the generated CRDs and Kubernetes' own schemas."""

from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from examples.manifests import EXAMPLES, FILES, OURS, ROOT, Manifest, load
from moorage.api.modeldeployment import ModelDeployment
from moorage.api.trainingjob import TrainingJob

MODELS = {"ModelDeployment": ModelDeployment, "TrainingJob": TrainingJob}
OF_OTHERS = "argoproj.io/v1alpha1"


def closed(schema: Manifest) -> Manifest:
    """The schema with unknown fields refused, as the API server does when it validates strictly."""
    found: Manifest = {}
    for key, value in schema.items():
        if key == "properties":
            found[key] = {name: closed(sub) for name, sub in value.items()}
        elif key in ("items", "additionalProperties") and isinstance(value, dict):
            found[key] = closed(value)
        else:
            found[key] = value
    if "properties" in found and not found.get("x-kubernetes-preserve-unknown-fields"):
        found.setdefault("additionalProperties", False)
    return found


def crd_schema(kind: str) -> Manifest:
    for file in (ROOT / "crds").glob("*.yaml"):
        manifest = yaml.safe_load(file.read_text())
        if manifest["kind"] == "CustomResourceDefinition" and manifest["spec"]["names"]["kind"] == kind:
            schema = manifest["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
            # The API server knows metadata; the CRD need not.
            return closed({**schema, "properties": {**schema["properties"], "metadata": {}}})
    raise AssertionError(f"no CRD of {kind}")


def manifests() -> list[Any]:
    return [
        pytest.param(m, id=f"{file.relative_to(EXAMPLES)}-{m['kind']}-{m['metadata']['name']}")
        for file in FILES
        for m in load(file)
    ]


@pytest.mark.parametrize("manifest", manifests())
def test_valid(manifest: Manifest) -> None:
    if manifest["apiVersion"] == OURS:
        MODELS[manifest["kind"]].parse(manifest, strict=True)
        jsonschema.Draft4Validator(crd_schema(manifest["kind"])).validate(manifest)
    elif manifest["apiVersion"] != OF_OTHERS:
        kubernetes_validate.validate(manifest, "1.34", strict=True)


def test_a_misspelt_field_would_be_seen() -> None:
    manifest = {
        "apiVersion": OURS,
        "kind": "ModelDeployment",
        "metadata": {"name": "x"},
        "spec": {"runtime": {"torch": {"maxBatch": 1}}},
    }
    with pytest.raises(jsonschema.ValidationError, match="maxBatch"):
        jsonschema.Draft4Validator(crd_schema("ModelDeployment")).validate(manifest)


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(EXAMPLES)))
def test_says_what_it_shows(file: Path) -> None:
    header = file.read_text().split("\napiVersion", maxsplit=1)[0]
    assert all(line.startswith("#") for line in header.splitlines() if line)
    assert len(header) > 80


def test_all_can_be_applied_beside_each_other() -> None:
    seen = Counter(
        (m["kind"], m["metadata"].get("namespace", "default"), m["metadata"]["name"])
        for file in FILES
        for m in load(file)
    )
    assert [key for key, count in seen.items() if count > 1] == []
