"""Watches that are open and silent: what they do not tell is found by the resync, and that they are dead is noticed."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import Cluster
from moorage.leadership import CHECK_AFTER
from support import deploy
from support.freezer import Freezer, api_server
from support.resources import model_deployment, without_volumes

# A frozen connection costs each request its whole timeout until the pool has forgotten it: the lease must outlive that.
PATIENT = {"lease_duration_seconds": 40, "lease_renew_deadline_seconds": 30, "request_timeout_seconds": 2}


@pytest.fixture
def freezer(kubeconfig: Path) -> Iterator[Freezer]:
    with Freezer(api_server(kubeconfig)) as proxy:
        yield proxy


def test_a_deletion_no_watch_told_of_is_mended_by_the_resync(
    api: Cluster, freezer: Freezer, fleet, kubeconfig: Path, tmp_path: Path, ns: str, apply
) -> None:
    way = freezer.kubeconfig(kubeconfig, tmp_path)
    operator = fleet.start("deaf", kubeconfig=way, namespaces=ns, resync_seconds=2, **PATIENT).until("serves")
    apply(model_deployment(**without_volumes()))
    deploy.wait_for_condition(api, "mdep", "digits", "Ready", namespace=ns)
    freezer.freeze()
    api.kubectl("delete", "deployment", "digits", "-n", ns)
    deploy.eventually(lambda: deploy.get(api, "deployment", "digits", ns), 40, "the Deployment is back")
    assert operator.metric("moorage_operator_resync_pruned_total", kind="Deployment") >= 1


def test_a_dead_watch_ends_the_process(
    api: Cluster, freezer: Freezer, fleet, kubeconfig: Path, tmp_path: Path, ns: str, apply
) -> None:
    way = freezer.kubeconfig(kubeconfig, tmp_path)
    operator = fleet.start(
        "doomed", kubeconfig=way, namespaces=ns, resync_seconds=2, watch_lag_limit_seconds=3, **PATIENT
    ).until("serves")
    apply(model_deployment(**without_volumes()))
    deploy.wait_for_condition(api, "mdep", "digits", "Ready", namespace=ns)
    freezer.freeze()
    api.kubectl("scale", "mdep", "digits", "-n", ns, "--replicas=2")
    assert operator.wait(60) == 1
    reason = next(line["reason"] for line in operator.lines() if line.get("event") == "ending")
    assert "has been silent" in reason
    # What the kubelet does next.
    fleet.start("fresh", namespaces=ns).until("serves", timeout=60)
    deploy.wait_for_condition(api, "mdep", "digits", "Ready", namespace=ns)


def test_a_watch_that_owes_nothing_may_be_silent(api: Cluster, fleet, ns: str, apply) -> None:
    """What the first list had is not owed by the watch that begins there."""
    fleet.resident()
    apply(model_deployment("triton", **without_volumes(runtime={"triton": {}})))
    deploy.wait_for_condition(api, "mdep", "triton", "Ready", namespace=ns)
    fleet.clear()
    operator = fleet.start("calm", namespaces=ns, watch_lag_limit_seconds=2).until("serves")
    time.sleep(CHECK_AFTER + 5)
    assert operator.running, operator.tail()
    assert operator.metric("moorage_operator_watch_lag_seconds") == 0
