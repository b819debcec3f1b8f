"""A new operator over the last release's objects replaces no pod: pod templates are what that release made of the same.

tests/golden/recorded holds the resources and the children as the last release wrote them. Where a template differs
here, an upgrade of the operator would roll every model of that kind, and restart what serves: most often there is a way
to write the new code so that what is there stays as it is (leave out what has its default, put what changes into the
image). Where there is none, the change is made on purpose: it is justified in CHANGELOG.md under "Rolls pods", so that
whoever upgrades can choose the hour.

The record is renewed at a release, after its tag: `make record` writes it anew from today's examples and golden cases,
and the commit holds nothing else. Between releases it is renewed only together with such an entry in the changelog, and
only for the cases that failed: `make record CASES="example-gpu golden-gpu"`.
"""

import difflib
from typing import Any

import pytest
import yaml

from moorage.api.trainingjob import TrainingJob
from moorage.cli import render_all
from moorage.desired.digest import digest
from support import cases, recorded

WITH_PODS = ("Deployment", "Job")


def by_name(children: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {f"{child['kind']}/{child['metadata']['name']}": child for child in children}


def difference(then: dict[str, Any], now: dict[str, Any]) -> str:
    texts = [yaml.safe_dump(each, sort_keys=True).splitlines() for each in (then, now)]
    return "\n".join(difflib.unified_diff(*texts, "last release", "now", lineterm="", n=4))


@pytest.mark.parametrize("name", recorded.names())
def test_pod_templates_are_those_of_the_last_release(name: str) -> None:
    owners, children = recorded.load(name)
    then, now = by_name(children), by_name(list(render_all(owners, cases.DEFAULTS)))
    compared = 0
    for key, child in then.items():
        if child["kind"] not in WITH_PODS:
            continue
        assert key in now, f"{key} is no longer made: its pods would be deleted"
        before, after = child["spec"]["template"], now[key]["spec"]["template"]
        same = digest(before) == digest(after)
        assert same, f"an upgrade would replace the pods of {key}; see this file's head\n{difference(before, after)}"
        assert child["spec"].get("selector") == now[key]["spec"].get("selector"), "a selector cannot be changed"
        compared += 1
    assert compared


def test_something_of_every_runtime_and_trainer_is_recorded() -> None:
    owners = [owner for name in recorded.names() for owner in recorded.load(name)[0]]
    runtimes = {next(iter(o["spec"]["runtime"])) for o in owners if o["kind"] == "ModelDeployment"}
    trainers = {next(iter(o["spec"]["trainer"])) for o in owners if o["kind"] == TrainingJob.__name__}
    assert runtimes == {"torch", "triton", "container"}
    assert trainers == {"recipe", "script"}
