"""The API documents itself."""

import pytest

from cluster import Cluster


@pytest.mark.parametrize(
    "path",
    [
        "mdep",
        "mdep.spec",
        "mdep.spec.model",
        "mdep.spec.runtime.torch",
        "mdep.spec.runtime.triton",
        "mdep.spec.scaling.metrics",
        "mdep.status.conditions",
        "tjob.spec.trainer.recipe",
        "tjob.spec.trainer.script",
        "tjob.status.lastFailure",
    ],
)
def test_explain_works_at_every_level(moorage: Cluster, path: str) -> None:
    text = moorage.kubectl("explain", path)
    assert "DESCRIPTION:" in text
    assert "<no description>" not in text


def test_category_lists_both_kinds(moorage: Cluster) -> None:
    moorage.kubectl("get", "moorage", "-A")
