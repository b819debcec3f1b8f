"""health.lua of both kinds over tables of cases, in the form of Argo CD's own resource_customizations."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from argocd.lua import EXAMPLES, compiled

HERE = Path(__file__).parent
KINDS = ("ModelDeployment", "TrainingJob")


def cases() -> list[Any]:
    return [
        pytest.param(kind, case, id=f"{kind}-{Path(case['inputPath']).stem}")
        for kind in KINDS
        for case in yaml.safe_load((HERE / "testdata" / kind / "health_test.yaml").read_text())["tests"]
    ]


@pytest.mark.parametrize(("kind", "case"), cases())
def test_health(kind: str, case: dict[str, Any]) -> None:
    obj = yaml.safe_load((HERE / "testdata" / kind / case["inputPath"]).read_text())
    assert compiled(kind)(obj) == case["healthStatus"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_input_is_in_the_table(kind: str) -> None:
    listed = {case.values[1]["inputPath"] for case in cases() if case.values[0] == kind}
    assert listed == {path.name for path in (HERE / "testdata" / kind).glob("*.yaml")} - {"health_test.yaml"}


@pytest.mark.parametrize("kind", KINDS)
def test_argocd_cm_holds_the_same_script(kind: str) -> None:
    patch = yaml.safe_load((EXAMPLES / "argocd-cm.yaml").read_text())
    script = patch["data"][f"resource.customizations.health.moorage.dev_{kind}"]
    assert script == (EXAMPLES / kind / "health.lua").read_text()
