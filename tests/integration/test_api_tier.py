"""The API tier itself: real, repeatable, two at once, and nothing left of it afterwards."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import Cluster, ClusterError, open_cluster
from cluster.api import ApiCluster
from cluster.commands import until
from cluster.names import Names, default_name
from cluster.processes import Programs, end, look
from cluster.progress import Progress


@pytest.fixture(scope="module")
def beside() -> Iterator[ApiCluster]:
    """Another API tier beside the one of the session."""
    opened = ApiCluster(Names(f"{default_name('api')}-2"))
    yield opened
    opened.down(Progress())


@pytest.fixture
def second(beside: ApiCluster) -> ApiCluster:
    beside.up(Progress())
    return beside


def test_its_nodes_are_ready_and_offer_gpus(api_cluster: Cluster) -> None:
    status = api_cluster.status()
    assert status.up and status.version == "v1.34.4"
    assert status.nodes and all(node.state == "Ready" for node in status.nodes)
    offered = api_cluster.kubectl("get", "nodes", "-o", "jsonpath={.items[*].status.allocatable.nvidia\\.com/gpu}")
    assert offered.split() == ["4"] * len(status.nodes)


def test_a_pod_is_scheduled_and_said_to_run(api_cluster: Cluster) -> None:
    api_cluster.kubectl("run", "tier-pod", "--image=none", "-n", "default")
    try:
        api_cluster.kubectl("wait", "pod/tier-pod", "--for=condition=Ready", "--timeout=30s", "-n", "default")
    finally:
        api_cluster.kubectl("delete", "pod", "tier-pod", "-n", "default", "--grace-period=0", "--force")


def test_a_failure_is_told_in_kubectl_s_words(api_cluster: Cluster) -> None:
    with pytest.raises(ClusterError, match=r'pods "nobody" not found'):
        api_cluster.kubectl("get", "pod", "nobody", "-n", "default")


def test_who_wrote_what_is_in_the_audit_log(api_cluster: Cluster) -> None:
    name = f"audited-{uuid.uuid4().hex[:8]}"
    api_cluster.kubectl("create", "configmap", name, "-n", "default")
    api_cluster.kubectl("delete", "configmap", name, "-n", "default")
    log = api_cluster.kubeconfig.parent / "log" / "audit.log"

    def verbs() -> list[str]:
        lines = [json.loads(line) for line in log.read_text().splitlines() if name in line]
        return [line["verb"] for line in lines if line["userAgent"].startswith("kubectl")]

    until("the audit log tells", lambda: verbs() == ["create", "delete"], timeout=10)


def test_metrics_need_a_login_and_are_there_for_the_administrator(api_cluster: Cluster) -> None:
    assert "apiserver_request_total" in api_cluster.kubectl("get", "--raw", "/metrics")
    with pytest.raises(ClusterError, match="orbidden"):
        api_cluster.kubectl("get", "--raw", "/metrics", "--as=system:anonymous")


def test_two_at_once_do_not_meet(api_cluster: Cluster, second: ApiCluster) -> None:
    second.kubectl("create", "namespace", "only-here")
    assert "only-here" not in api_cluster.kubectl("get", "namespaces")
    assert second.status().address != api_cluster.status().address


def test_up_twice_changes_nothing(second: ApiCluster) -> None:
    second.kubectl("create", "namespace", "kept")
    before = {name: second.programs.get(name) for name in second.programs.names()}
    second.up(Progress())
    assert {name: second.programs.get(name) for name in second.programs.names()} == before
    assert "kept" in second.kubectl("get", "namespaces")


@pytest.mark.parametrize("program", ["kube-apiserver", "kube-controller-manager"])
def test_what_has_died_is_started_again_and_the_data_are_kept(second: ApiCluster, program: str) -> None:
    second.kubectl("create", "namespace", f"kept-{program}")
    running = second.programs.get(program)
    assert running
    end(running)
    assert not second.status().up
    second.up(Progress())
    assert second.status().up
    assert f"kept-{program}" in second.kubectl("get", "namespaces")


def test_down_leaves_nothing(second: ApiCluster) -> None:
    processes = [second.programs.get(name) for name in second.programs.names()]
    second.down(Progress())
    assert processes and not any(process and process.alive for process in processes)
    assert not second.names.state.exists()
    second.down(Progress())


def test_what_a_killed_run_left_is_cleaned_by_down(second: ApiCluster) -> None:
    """As if `up` had been killed between starting a program and noting it."""
    note = second.names.state / "pid" / "etcd.json"
    etcd = json.loads(note.read_text())["pid"]
    note.unlink()
    second.down(Progress())
    assert look(etcd) is None


def test_it_needs_no_root(api_cluster: Cluster) -> None:
    """Nothing in it is root's: no namespace of its own."""
    programs = Programs(api_cluster.kubeconfig.parent)
    namespaces = [Path("ns") / kind for kind in ("net", "mnt", "pid")]
    for name in programs.names():
        process = programs.get(name)
        assert process, f"{name} runs"
        for namespace in namespaces:
            theirs = (Path(f"/proc/{process.pid}") / namespace).readlink()
            assert theirs == (Path("/proc/self") / namespace).readlink()


def test_there_is_no_door_where_no_pod_runs(api_cluster: Cluster) -> None:
    with pytest.raises(ClusterError, match="pods of the API tier do not run"):
        api_cluster.door("default", "kubernetes", 443)


def test_it_is_opened_again_by_its_name(api_cluster: Cluster) -> None:
    assert open_cluster("api", api_cluster.name).status().up
