"""The chart and the examples on a real API server: admission, CEL rules, RBAC aggregation, and a release's whole life.

No containers run here (KWOK says that pods are ready), so nothing of this is about the operator's own work. The CRDs
are shared with other tests: they are taken over, and kept at the end.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from chart.rendered import CHART, ROOT
from cluster import Cluster, ClusterError

pytestmark = pytest.mark.api

RELEASE, NAMESPACE = "chart-test", "chart-test"
EXAMPLES = sorted(p for p in (ROOT / "examples").rglob("*.yaml") if p.parent.name != "argocd")
CRDS = ("modeldeployments.moorage.dev", "trainingjobs.moorage.dev")


def install(cluster: Cluster, *options: str) -> str:
    return cluster.helm(
        "upgrade", "--install", RELEASE, str(CHART), "-n", NAMESPACE, "--create-namespace",
        "--take-ownership", "--wait", "--timeout", "60s", *options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def installed(api_cluster: Cluster) -> Iterator[Cluster]:
    install(api_cluster)
    try:
        yield api_cluster
    finally:
        api_cluster.helm("uninstall", RELEASE, "-n", NAMESPACE, "--ignore-not-found", "--wait")
        api_cluster.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found")


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_example_is_accepted(installed: Cluster, file: Path) -> None:
    installed.kubectl("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", str(file))


def can(cluster: Cluster, user: str, verb: str, resource: str, part: str = "") -> bool:
    asked = ("auth", "can-i", verb, resource, f"--subresource={part}", "-n", NAMESPACE, f"--as={user}")
    try:
        return "yes" in cluster.kubectl(*asked)
    except ClusterError:  # kubectl's way to say no
        return False


@pytest.mark.parametrize("role", ["view", "edit", "admin"])
def test_the_roles_kubernetes_ships_reach_both_kinds(installed: Cluster, role: str) -> None:
    user = f"{role}er"
    installed.kubectl("create", "rolebinding", user, f"--clusterrole={role}", f"--user={user}", "-n", NAMESPACE)
    for resource in CRDS:
        assert can(installed, user, "list", resource)
        assert can(installed, user, "create", resource) == (role != "view")
        assert can(installed, user, "delete", resource) == (role != "view")
        assert not can(installed, user, "patch", resource, "status"), "the status is the operator's"
    assert can(installed, user, "update", CRDS[0], "scale") == (role != "view")


def test_a_release_comes_changes_goes_and_comes_back(installed: Cluster) -> None:
    def uids() -> str:
        return installed.kubectl("get", "crd", *CRDS, "-o", "jsonpath={.items[*].metadata.uid}")

    crds = uids()
    manifest = (ROOT / "examples/torch/cars.yaml").read_text()
    installed.kubectl("apply", "-n", NAMESPACE, "-f", "-", input=manifest)

    install(installed, "--set", "replicas=3", "--set", "watchNamespaces={chart-test}")
    wanted = installed.kubectl("get", "deployment", "-n", NAMESPACE, "-o", "jsonpath={.items[*].spec.replicas}")
    assert wanted == "3"
    assert RELEASE in installed.kubectl("get", "role", "-n", NAMESPACE, "-o", "name")
    assert f"{RELEASE}-moorage\n" not in installed.kubectl("get", "clusterrole", "-o", "name")

    installed.helm("uninstall", RELEASE, "-n", NAMESPACE, "--wait")
    assert uids() == crds
    assert "modeldeployment.moorage.dev/cars" in installed.kubectl("get", "mdep", "-n", NAMESPACE, "-o", "name")
    assert installed.kubectl("get", "deployment", "-n", NAMESPACE, "-o", "name") == ""

    # Without --take-ownership: what an uninstall kept still belongs to a release of this name.
    installed.helm("install", RELEASE, str(CHART), "-n", NAMESPACE, "--wait", "--timeout", "60s")
    assert uids() == crds
