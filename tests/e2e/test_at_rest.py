"""A healthy system writes nothing but its Lease, and a restarted operator finds nothing to write."""

import json
import time
from datetime import UTC, datetime

import pytest

from cluster import Cluster
from cluster.names import Names
from support import deploy

WRITES = {"create", "update", "patch", "delete", "deletecollection"}


def writes_since(cluster: Cluster, start: datetime) -> list[str]:
    """What the operator's ServiceAccount wrote since then, Leases aside, as the API server's audit log has it."""
    found = []
    for line in (Names(cluster.name).logs / "audit.log").read_text().splitlines():
        event = json.loads(line)
        user, about = event["user"].get("username", ""), event.get("objectRef") or {}
        when = datetime.fromisoformat(event["requestReceivedTimestamp"])
        ours = user.startswith(f"system:serviceaccount:{deploy.NAMESPACE}:")
        if ours and event["verb"] in WRITES and about.get("resource") != "leases" and when > start:
            found.append(f"{event['verb']} {about.get('resource')}/{about.get('name')} {about.get('subresource', '')}")
    return found


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
