"""The API server is away for a while, and what happened meanwhile is told by no watch: it is found all the same."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster import Cluster
from cluster.progress import Progress
from moorage.kube.kinds import CHILDREN, GRANDCHILDREN, OWNERS
from support import deploy
from support.fault_proxy import FaultProxy, Faults, Which
from support.resources import model_deployment, without_volumes

PATIENT = {"lease_duration_seconds": 40, "lease_renew_deadline_seconds": 30}


WATCHED = len((*OWNERS, *CHILDREN, *GRANDCHILDREN))


@pytest.fixture
def proxy(kubeconfig: Path) -> Iterator[FaultProxy]:
    with FaultProxy(kubeconfig) as between:
        yield between


def of_resources(verb: str, path: str) -> bool:
    return path.endswith(("/modeldeployments", "/trainingjobs"))


@contextmanager
def unheard(proxy: FaultProxy, watches: int, only: Which) -> Iterator[None]:
    """What happens here no watch hears of: the line is down, and then it is told that its version is too old."""
    proxy.faults = Faults(share=1, ways=("reset",), only=lambda verb, path: "/leases" not in path and only(verb, path))
    proxy.cut()
    yield
    began = time.monotonic()
    proxy.faults = Faults(expired=1, only=only)
    deploy.eventually(
        lambda: len({each.path for each in proxy.since(began) if each.fault == "expired"}) >= watches, 30, "all heard"
    )
    proxy.faults = Faults()


def everything(verb: str, path: str) -> bool:
    return True


def test_a_child_deleted_during_an_outage_is_back(
    api: Cluster, proxy: FaultProxy, fleet, ns: str, apply, tmp_path: Path
) -> None:
    operator = fleet.start("cut-off", kubeconfig=proxy.kubeconfig(tmp_path), namespaces=ns, **PATIENT).until("serves")
    apply(model_deployment(**without_volumes()))
    deploy.wait_for_condition(api, "mdep", "digits", "Ready", namespace=ns)
    with unheard(proxy, WATCHED, everything):
        api.kubectl("delete", "deployment", "digits", "-n", ns)
    deploy.eventually(lambda: deploy.get(api, "deployment", "digits", ns), 30, "the Deployment is back")
    assert operator.running


@pytest.mark.parametrize(
    ("watches", "only"),
    [pytest.param(WATCHED, everything, id="all watches"), pytest.param(2, of_resources, id="its own watch alone")],
)
def test_a_resource_deleted_during_an_outage_is_not_served_on(
    api: Cluster, proxy: FaultProxy, fleet, ns: str, apply, tmp_path: Path, watches: int, only: Which
) -> None:
    """Its children go with it. An operator that did not hear of it would make them again, and again."""
    operator = fleet.start("cut-off", kubeconfig=proxy.kubeconfig(tmp_path), namespaces=ns, **PATIENT).until("serves")
    apply(*(model_deployment(name, **without_volumes()) for name in ("goes", "stays")))
    for name in ("goes", "stays"):
        deploy.wait_for_condition(api, "mdep", name, "Ready", namespace=ns)
    with unheard(proxy, watches, only):
        api.kubectl("delete", "mdep", "goes", "-n", ns)
    began = time.monotonic()
    deploy.eventually(
        lambda: not deploy.items(api, "deploy,svc,pods", ns, "moorage.dev/model-deployment=goes"), 40, "all is gone"
    )
    api.kubectl("scale", "mdep", "stays", "-n", ns, "--replicas=2")
    deploy.wait_for_condition(api, "mdep", "stays", "Ready", namespace=ns)
    time.sleep(max(0, began + 8 - time.monotonic()))
    began = time.monotonic()
    time.sleep(4)
    written = [each.path for each in proxy.since(began) if each.writes and not each.of_lease]
    assert written == []
    assert operator.running


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
