"""<case>/in.yaml holds resources, out.yaml the children the operator makes of them.

MOORAGE_UPDATE_GOLDEN=1 writes out.yaml anew; then `git diff` is the review.
"""

import os
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from moorage.cli import dump, render_all
from moorage.desired.digest import covers, stamp
from support.cases import DEFAULTS

CASES = sorted(path.parent for path in Path(__file__).parent.glob("*/in.yaml"))
# Kubernetes' own schemas know nothing of the Prometheus operator's.
FOREIGN = {"PodMonitor"}

each_case = pytest.mark.parametrize("case", CASES, ids=lambda path: path.name)


def children(case: Path) -> list[dict[str, Any]]:
    return list(render_all(list(yaml.safe_load_all((case / "in.yaml").read_text())), DEFAULTS))


@each_case
def test_children_are_the_golden_ones(case: Path) -> None:
    golden, rendered = case / "out.yaml", dump(*children(case))
    if os.environ.get("MOORAGE_UPDATE_GOLDEN"):
        golden.write_text(rendered)
    assert golden.read_text() == rendered


@each_case
def test_children_are_valid_for_kubernetes(case: Path) -> None:
    for child in children(case):
        if child["kind"] not in FOREIGN:
            kubernetes_validate.validate(child, "1.34", strict=True)


@each_case
def test_same_input_same_bytes(case: Path) -> None:
    assert dump(*children(case)) == dump(*children(case))


@each_case
def test_a_child_covers_itself_and_is_stamped_once(case: Path) -> None:
    for child in children(case):
        assert covers(child, child)
        assert stamp(child) == child


@each_case
def test_pods_are_restricted(case: Path) -> None:
    """What the restricted Pod Security Standard asks of every container we make."""
    for child in children(case):
        if child["kind"] not in ("Deployment", "Job"):
            continue
        pod = child["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            if container["name"] == "proxy":
                continue  # the user's
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            if "moorage/" in container["image"]:
                assert container["securityContext"]["readOnlyRootFilesystem"] is True
