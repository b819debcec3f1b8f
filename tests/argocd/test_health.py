"""health.lua of both kinds over tables of cases, in the form of Argo CD's own resource_customizations.

Run by Lua 5.1, the version Argo CD embeds, without the libraries it withholds from such scripts.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml
from lupa.lua51 import LuaRuntime

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples/argocd"
KINDS = ("ModelDeployment", "TrainingJob")
WITHHELD = ("io", "os", "debug", "package", "require", "dofile", "loadfile", "python")


def cases() -> list[Any]:
    return [
        pytest.param(kind, case, id=f"{kind}-{Path(case['inputPath']).stem}")
        for kind in KINDS
        for case in yaml.safe_load((HERE / "testdata" / kind / "health_test.yaml").read_text())["tests"]
    ]


def health(script: str, obj: dict[str, Any]) -> dict[str, Any]:
    lua = LuaRuntime(register_eval=False, unpack_returned_tuples=True)
    for name in WITHHELD:
        lua.globals()[name] = None
    lua.globals().obj = lua.table_from(obj, recursive=True)
    return dict(lua.execute(script))


@pytest.mark.parametrize(("kind", "case"), cases())
def test_health(kind: str, case: dict[str, Any]) -> None:
    script = (EXAMPLES / kind / "health.lua").read_text()
    obj = yaml.safe_load((HERE / "testdata" / kind / case["inputPath"]).read_text())
    assert health(script, obj) == case["healthStatus"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_input_is_in_the_table(kind: str) -> None:
    listed = {case.values[1]["inputPath"] for case in cases() if case.values[0] == kind}
    assert listed == {path.name for path in (HERE / "testdata" / kind).glob("*.yaml")} - {"health_test.yaml"}


@pytest.mark.parametrize("kind", KINDS)
def test_argocd_cm_holds_the_same_script(kind: str) -> None:
    patch = yaml.safe_load((EXAMPLES / "argocd-cm.yaml").read_text())
    script = patch["data"][f"resource.customizations.health.moorage.dev_{kind}"]
    assert script == (EXAMPLES / kind / "health.lua").read_text()
