"""A healthy system writes nothing but its Lease, and a restarted operator finds nothing to write."""

import time
from datetime import UTC, datetime

import pytest

from cluster import Cluster
from support import audit, deploy


def writes_since(cluster: Cluster, start: datetime) -> list[str]:
    return [audit.told(event) for event in audit.writes(cluster, since=start)]


@pytest.mark.timeout(400)
def test_writes_nothing_at_rest_and_nothing_after_a_restart(moorage: Cluster, model: dict[str, object]) -> None:
    if moorage.driver != "native":
        pytest.skip("only the native driver offers the API server's audit log")
    for name in ("digits", "digits-triton"):
        deploy.wait_for_condition(moorage, "modeldeployment", name, "Ready", timeout=180)
    # The replicas that earlier tests' load brought must be gone, and with them every reason to write.
    deploy.eventually(
        lambda: all(
            d["status"].get("replicas") == d["spec"]["replicas"] == d["status"].get("readyReplicas")
            for d in deploy.items(moorage, "deployments", selector="app.kubernetes.io/managed-by=moorage")
        ),
        120,
        "all deployments at rest",
    )
    time.sleep(20)

    start = datetime.now(UTC)
    time.sleep(60)
    assert writes_since(moorage, start) == []

    start = datetime.now(UTC)
    moorage.kubectl("rollout", "restart", "deployment", "-n", deploy.NAMESPACE)
    moorage.kubectl("rollout", "status", "deployment", "-n", deploy.NAMESPACE, "--timeout=120s", timeout=130)
    time.sleep(15)
    assert writes_since(moorage, start) == []
