"""The API server is away for a while, and what happened meanwhile is told by no watch: it is found all the same."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import Cluster
from cluster.progress import Progress
from support import deploy
from support.fault_proxy import FaultProxy, Faults
from support.resources import model_deployment, without_volumes

PATIENT = {"lease_duration_seconds": 40, "lease_renew_deadline_seconds": 30}


@pytest.fixture
def proxy(kubeconfig: Path) -> Iterator[FaultProxy]:
    """After an outage every watch hears that its version is too old: so it is after a restart of the API server."""
    with FaultProxy(kubeconfig) as between:
        yield between


def test_a_child_deleted_during_an_outage_is_back(
    api: Cluster, proxy: FaultProxy, fleet, ns: str, apply, tmp_path: Path
) -> None:
    operator = fleet.start("cut-off", kubeconfig=proxy.kubeconfig(tmp_path), namespaces=ns, **PATIENT).until("serves")
    apply(model_deployment(**without_volumes()))
    deploy.wait_for_condition(api, "mdep", "digits", "Ready", namespace=ns)
    with proxy.outage():
        api.kubectl("delete", "deployment", "digits", "-n", ns)
        proxy.faults = Faults(expired=1)
    forget_versions(proxy)
    deploy.eventually(lambda: deploy.get(api, "deployment", "digits", ns), 30, "the Deployment is back")
    assert operator.running


def test_a_resource_deleted_during_an_outage_is_not_served_on(
    api: Cluster, proxy: FaultProxy, fleet, ns: str, apply, tmp_path: Path
) -> None:
    """Its children go with it. An operator that did not hear of it would make them again, and again."""
    operator = fleet.start("cut-off", kubeconfig=proxy.kubeconfig(tmp_path), namespaces=ns, **PATIENT).until("serves")
    apply(*(model_deployment(name, **without_volumes()) for name in ("goes", "stays")))
    for name in ("goes", "stays"):
        deploy.wait_for_condition(api, "mdep", name, "Ready", namespace=ns)
    with proxy.outage():
        api.kubectl("delete", "mdep", "goes", "-n", ns)
        proxy.faults = Faults(expired=1)
    forget_versions(proxy)
    deploy.eventually(lambda: not deploy.items(api, "deploy,svc", ns, "moorage.dev/model-deployment=goes"), 40, "gone")
    api.kubectl("scale", "mdep", "stays", "-n", ns, "--replicas=2")
    deploy.wait_for_condition(api, "mdep", "stays", "Ready", namespace=ns)
    began = time.monotonic()
    time.sleep(5)
    written = [each.path for each in proxy.since(began) if each.writes and "/leases/" not in each.path]
    assert written == []
    assert operator.running


def forget_versions(proxy: FaultProxy) -> None:
    """Each watch is told once that its version is too old, and from then on all is well again."""
    began = time.monotonic()
    deploy.eventually(
        lambda: len({each.path for each in proxy.since(began) if each.fault == "expired"}) >= 7, 30, "all were told"
    )
    proxy.faults = Faults()


@pytest.mark.timeout(120)
def test_a_restart_of_the_api_server_moves_no_pod(api: Cluster, fleet, ns: str, apply) -> None:
    operator = fleet.start("steady", **PATIENT).until("serves")
    apply(model_deployment(**without_volumes(replicas=2)), model_deployment("other", **without_volumes()))
    for name in ("digits", "other"):
        deploy.wait_for_condition(api, "mdep", name, "Ready", namespace=ns)
    before, written = standing(api, ns), operator.writes()
    server = api.programs.get("kube-apiserver")  # type: ignore[attr-defined]
    assert server is not None
    os.kill(server.pid, signal.SIGKILL)
    time.sleep(1)
    api.up(Progress())

    api.kubectl("scale", "mdep", "digits", "-n", ns, "--replicas=3")

    def followed() -> bool:
        # Not whether the pods are ready: what plays the kubelet here takes its own time to come back.
        deployment, owner = deploy.get(api, "deployment", "digits", ns), deploy.get(api, "mdep", "digits", ns)
        return bool(deployment and deployment["spec"]["replicas"] == 3 and deploy.current(owner))

    deploy.eventually(followed, 60, "the change is followed")
    assert operator.running
    after = standing(api, ns)
    assert before.items() <= after.items(), "a pod was replaced, or its Deployment was changed"
    print(f"{operator.writes() - written} writes for one change")


def standing(api: Cluster, ns: str) -> dict[str, object]:
    """What a restart must not move: each pod and the revision it belongs to."""
    pods, sets = deploy.items(api, "pods", ns), deploy.items(api, "replicasets", ns)
    return {each["metadata"]["name"]: each["metadata"]["uid"] for each in (*pods, *sets)}
