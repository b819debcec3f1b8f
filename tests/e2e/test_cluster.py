"""The cluster itself: its nodes suffer faults and recover, and a cluster that is taken down leaves nothing behind."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import Cluster, Node, open_cluster, unavailable
from cluster.commands import until
from cluster.names import CHECKOUT, default_name
from cluster.processes import MARK, look
from cluster.progress import Progress
from cluster.sysctls import CHANGED_BY_KUBELET, NOTE

# Kubernetes notices a dead node after 12 s; the rest is for a machine that is busy with other things.
NOTICED_SECONDS = 90


@pytest.fixture
def node(cluster: Cluster) -> Iterator[Node]:
    """The last node, whole again afterwards."""
    if not cluster.nodes:
        pytest.skip(f"the {cluster.driver} driver cannot make nodes fail")
    chosen = cluster.nodes[-1]
    yield chosen
    chosen.boot()
    chosen.join()
    chosen.thaw()
    wait_for(cluster, chosen, "True")


def ready(cluster: Cluster, node: Node) -> str:
    path = '{.status.conditions[?(@.type=="Ready")].status}'
    return cluster.kubectl("get", "node", node.name, "-o", f"jsonpath={path}")


def wait_for(cluster: Cluster, node: Node, *states: str) -> None:
    until(f"{node.name} is Ready={'|'.join(states)}", lambda: ready(cluster, node) in states, NOTICED_SECONDS)


def test_every_node_is_ready_and_offers_gpus(cluster: Cluster) -> None:
    status = cluster.status()
    assert status.up
    assert [node.state for node in status.nodes] == ["Ready"] * len(status.nodes)
    for node in cluster.nodes:
        allocatable = json.loads(cluster.kubectl("get", "node", node.name, "-o", "json"))["status"]["allocatable"]
        assert allocatable["nvidia.com/gpu"] == "4"


def test_up_twice_is_harmless(cluster: Cluster) -> None:
    before = cluster.kubectl("get", "pods", "-A", "-o", "jsonpath={.items[*].metadata.uid}", "-l", "k8s-app=kube-dns")
    cluster.up(Progress())
    after = cluster.kubectl("get", "pods", "-A", "-o", "jsonpath={.items[*].metadata.uid}", "-l", "k8s-app=kube-dns")
    assert before and after == before


def test_a_door_stays_open_for_many_connections(cluster: Cluster) -> None:
    with cluster.door("monitoring", "prometheus", 9090) as address:
        for _ in range(200):
            with urllib.request.urlopen(f"http://{address}/-/ready", timeout=10) as answer:
                assert answer.status == 200


def test_a_node_whose_plug_is_pulled_is_noticed_and_comes_back_with_its_gpus(cluster: Cluster, node: Node) -> None:
    node.pull_plug()
    node.pull_plug()
    wait_for(cluster, node, "Unknown", "False")
    node.boot()
    node.boot()
    wait_for(cluster, node, "True")

    def gpus() -> str:
        path = "jsonpath={.status.allocatable.nvidia\\.com/gpu}"
        return cluster.kubectl("get", "node", node.name, "-o", path)

    until(f"{node.name} offers its GPUs again", lambda: gpus() == "4", NOTICED_SECONDS)


def test_a_node_that_is_cut_off_is_noticed_and_comes_back(cluster: Cluster, node: Node) -> None:
    node.cut()
    node.cut()
    wait_for(cluster, node, "Unknown")
    node.join()
    wait_for(cluster, node, "True")


def test_a_kubelet_that_hangs_is_noticed_and_goes_on(cluster: Cluster, node: Node) -> None:
    node.freeze()
    wait_for(cluster, node, "Unknown")
    node.thaw()
    wait_for(cluster, node, "True")


def test_a_kubelet_that_dies_comes_back_by_itself(cluster: Cluster, node: Node) -> None:
    node.restart_kubelet()
    wait_for(cluster, node, "True")


@pytest.fixture
def native() -> None:
    """What a cluster leaves behind is looked at for the native driver only: Docker looks after its own."""
    reason = unavailable("full")
    driver = "" if reason else open_cluster().driver
    if driver != "native":
        pytest.skip(reason or f"the {driver} driver's traces are not ours to look at")


def machine(name: str) -> dict[str, list[str]]:
    """What a cluster of that name could leave on this machine. Other clusters may come and go meanwhile, so of what
    carries a name only this one's counts; the host's interfaces and firewall count whoever made them."""
    state = str(CHECKOUT / ".cluster" / name)
    mark = f"{MARK}={state}".encode()
    processes = [pid for pid in Path("/proc").glob("[0-9]*") if look(int(pid.name)) and mark in environment(pid)]
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    interfaces = json.loads(subprocess.check_output(["ip", "-j", "link"]))
    netns = Path("/run/netns")
    return {
        "processes": [" ".join((pid / "cmdline").read_text().split("\0")) for pid in processes],
        "mounts": [mount for mount in mounts if name in mount or state in mount],
        "network namespaces": [path.name for path in netns.iterdir() if name in path.name] if netns.is_dir() else [],
        "interfaces": [link["ifname"] for link in interfaces],
        "cgroups": [str(path) for path in Path("/sys/fs/cgroup").rglob(f"{name}*")],
        "folders": [state] if Path(state).exists() else [],
        "firewall": re.findall(r"table .*", subprocess.check_output(["nft", "list", "tables"], text=True)),
    }


def environment(process: Path) -> list[bytes]:
    try:
        return (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return []


def sysctls() -> dict[str, str]:
    return {name: (Path("/proc/sys") / name).read_text() for name in CHANGED_BY_KUBELET}


@pytest.mark.usefixtures("native")
def test_down_leaves_nothing_behind() -> None:
    """With a cluster of its own, whether or not another one is up."""
    name = f"{default_name('full')}-down"
    others_are_up = NOTE.exists()
    before, settings, mounts = machine(name), sysctls(), Path("/proc/self/mounts").read_text()
    own = open_cluster(name=name, nodes=1)
    try:
        own.up(Progress())
        during = machine(name)
        for kind in ("processes", "network namespaces", "cgroups", "folders"):
            assert during[kind], f"the test sees the cluster's {kind}"
        assert during["interfaces"] == before["interfaces"]
        assert during["firewall"] == before["firewall"]
    finally:
        own.down(Progress())
    assert machine(name) == before
    if not others_are_up:
        assert sysctls() == settings
        assert Path("/proc/self/mounts").read_text() == mounts


@pytest.mark.usefixtures("native")
def test_what_a_killed_run_left_is_cleaned_by_down() -> None:
    """`up` is killed while the nodes start: at the worst moment, with nodes half made."""
    name = f"{default_name('full')}-killed"
    before = machine(name)
    command = [sys.executable, "-m", "cluster", "up", "--name", name, "--nodes", "1"]
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT / "tests")}
    with subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            node = CHECKOUT / ".cluster" / name / "pid" / "node1.json"
            until("a node is started", lambda: node.exists() or process.poll() is not None, timeout=200, interval=0.01)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    assert machine(name) != before
    open_cluster(name=name).down(Progress())
    assert machine(name) == before
