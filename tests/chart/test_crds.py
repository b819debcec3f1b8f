"""The chart brings the generated CRDs, unchanged but for labels and the annotation that keeps them."""

import copy

import pytest
import yaml

from chart.rendered import CHART, CRDS, ROOT, Manifest, Render

KEEP = "helm.sh/resource-policy"


def test_there_is_one_copy() -> None:
    assert (CHART / "files/crds").resolve() == ROOT / "crds"
    assert len(CRDS) == 2


@pytest.mark.parametrize("keep", [True, False])
def test_as_generated(render: Render, keep: bool) -> None:
    rendered = {m["metadata"]["name"]: m for m in render({"crds": {"keep": keep}}).of("CustomResourceDefinition")}
    assert len(rendered) == len(CRDS)
    for file in CRDS:
        expected: Manifest = yaml.safe_load(file.read_text())
        got = copy.deepcopy(rendered[expected["metadata"]["name"]])
        labels = got["metadata"].pop("labels")
        assert (
            expected["metadata"].pop("labels", {}) | {"app.kubernetes.io/managed-by": "Helm"}
        ).items() <= labels.items()
        annotations = got["metadata"].get("annotations") or {}
        assert annotations.pop(KEEP, None) == ("keep" if keep else None)
        assert annotations == (expected["metadata"].get("annotations") or {})
        for meta in (got["metadata"], expected["metadata"]):
            meta.pop("annotations", None)
        assert got == expected


def test_left_out(render: Render) -> None:
    assert render({"crds": {"enabled": False}}).of("CustomResourceDefinition") == []


def test_fit_for_client_side_apply(render: Render) -> None:
    """`kubectl apply` without --server-side keeps the whole object in an annotation, of 262,144 bytes at most."""
    for crd in render().of("CustomResourceDefinition"):
        assert len(yaml.safe_dump(crd)) < 200_000
