"""The native driver: a real Kubernetes without Docker, as root on Linux.

etcd and the control plane run in a network namespace with a bridge; each node is a process tree in namespaces of its
own with a real containerd, kubelet and kube-proxy. Everything is below the cluster's folder or carries its name.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from cluster import addons, binaries, cache, cgroups, network, packages, ports, sysctls, tools
from cluster.buildah import Buildah
from cluster.commands import run, watched
from cluster.controlplane import CONFIG, FIRST_SERVICE_ADDRESS, ControlPlane, wait_ready
from cluster.door import cluster_address, forwarder
from cluster.images import project_images, system_images
from cluster.interface import ClusterError, ClusterStatus, Driver, Node, Tier
from cluster.kubectl import Client
from cluster.lifecycle import Removal, enter, exclusively, remember_nodes
from cluster.names import Names
from cluster.node import NativeNode
from cluster.pki import USERS, Pki, node_user
from cluster.processes import Programs
from cluster.progress import Progress

APISERVER_PORT, REGISTRY_PORT = 6443, 5000
MOST_NODES = 9
NODES_READY_SECONDS = 180  # 2 on a quiet machine
PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "registry", "forward")
SYSTEM_IMAGES = ("pause", "coredns", "fakegpu", "prometheus", "versitygw")


class NativeCluster:
    tier: Tier = "full"
    driver: Driver = "native"

    def __init__(self, names: Names, nodes: int) -> None:
        if not 1 <= nodes <= MOST_NODES:
            raise ValueError(f"a native cluster has 1 to {MOST_NODES} nodes, not {nodes}")
        self.names = names
        self.name = names.name
        self.kubeconfig = names.kubeconfig
        self.programs = Programs(names.state)
        self.pki = Pki(names.state / "pki")
        self._nodes = [NativeNode(names, i) for i in range(1, nodes + 1)]

    @property
    def nodes(self) -> list[Node]:
        return list(self._nodes)

    @property
    def client(self) -> Client:
        folder = self.names.state / "bin"
        return Client(folder / "kubectl", folder / "helm", self.kubeconfig, self.names.state)

    def up(self, progress: Progress) -> None:
        check_folders([self.names.state, cache.root()])
        packages.require(packages.NODE + packages.IMAGES, progress)
        made = binaries.ensure(binaries.CLUSTER_MODULES, progress)
        cache.prune(progress)
        with Buildah(made.path("registry")) as builder:
            images = system_images(progress, builder, {name: made.path(name) for name in SYSTEM_IMAGES})
        with exclusively(self.names, progress), progress.step(f"cluster {self.name}"):
            enter(self.names, self.driver)
            remember_nodes(self.names, len(self._nodes))
            tools.ensure(self.names.state / "bin", made, progress)
            with progress.step("control plane"), watched(lambda: self.programs.check(PROGRAMS)):
                self._start_control_plane(made)
            with progress.step(f"{len(self._nodes)} nodes"):
                self._start_nodes(made, images)
                with watched(self._check):
                    self.client.wait_nodes_ready(self._node_names(), NODES_READY_SECONDS)
            with progress.step("DNS, GPUs, storage, Prometheus, S3"), watched(self._check):
                addons.apply(self, images, self.names.volumes)

    def _check(self) -> None:
        self.programs.check([*PROGRAMS, *self._node_names()])
        for node in self._nodes:
            node.check()

    def _start_control_plane(self, made: binaries.Binaries) -> None:
        state = self.names.state
        network.create_control(self.names)
        forwards = self.programs.get("forward") is not None
        port = ports.claim(state, ["apiserver"], self.names.ports(), keep=forwards)["apiserver"]
        users = [*USERS, *(node_user(self.names.node(i)) for i in range(1, MOST_NODES + 1))]
        self.pki.create(["127.0.0.1", network.CONTROL_ADDRESS, FIRST_SERVICE_ADDRESS], users)
        plane = ControlPlane(
            state, made, self.pki, bind="0.0.0.0", advertise=network.CONTROL_ADDRESS,
            port=APISERVER_PORT, etcd_port=2379, etcd_peer_port=2380,
        )  # fmt: skip
        plane.write_kubeconfigs(["kube-controller-manager", "kube-scheduler", "kube-proxy", *self._node_names()])
        self.pki.write_kubeconfig(self.kubeconfig, "admin", f"https://127.0.0.1:{port}")
        inside = network.enter(self.names.control_netns)
        for name, argv in plane.server().items():
            self.programs.start(name, [*inside, *argv])
        registry = [*inside, str(made.path("registry")), "serve", str(CONFIG / "registry.yaml")]
        self.programs.start("registry", registry, registry_settings())
        door = network.netns_file(self.names.control_netns)
        target = f"127.0.0.1:{APISERVER_PORT}"
        self.programs.start("forward", [str(made.path("nsforward")), f"127.0.0.1:{port}", str(door), target])
        wait_ready(self.pki, port)
        for name, argv in plane.controllers().items():
            self.programs.start(name, [*inside, *argv])

    def _start_nodes(self, made: binaries.Binaries, images: Mapping[str, str]) -> None:
        sysctls.save(self.names.state)
        self.names.volumes.mkdir(exist_ok=True)
        for node in self._nodes:
            node.create(made, images["pause"])
            node.boot()
            # What a test that was killed may have left.
            node.join()
            node.thaw()

    def down(self, progress: Progress) -> None:
        with exclusively(self.names, progress), progress.step(f"removing {self.name}"), Removal(self.names) as removal:
            for node in all_nodes(self.names):
                removal.attempt(f"switching {node.name} off", node.pull_plug)
            removal.attempt("ending its programs", self.programs.stop_all)
            for i in range(1, MOST_NODES + 1):
                removal.attempt(f"the cgroups of node {i}", partial(cgroups.remove, self.names.cgroup(i)))
            removal.attempt("the network", partial(network.remove, self.names))
            removal.attempt("the kernel settings", partial(sysctls.restore, self.names.state))

    def status(self) -> ClusterStatus:
        running = {name: self.programs.get(name) is not None for name in PROGRAMS}
        if not any(running.values()):
            return ClusterStatus(up=False)
        port = ports.claim(self.names.state, ["apiserver"], [], keep=True)["apiserver"]
        off = [node.name for node in self._nodes if not node.runs]
        return self.client.status(running, f"https://127.0.0.1:{port}", up=all(running.values()), off=off)

    def _node_names(self) -> list[str]:
        return [node.name for node in self._nodes]

    def kubectl(self, *args: str, input: str | None = None, timeout: float = 60) -> str:
        return self.client.kubectl(*args, input=input, timeout=timeout)

    def helm(self, *args: str, timeout: float = 300) -> str:
        return self.client.helm(*args, timeout=timeout)

    @contextmanager
    def door(self, namespace: str, service: str, port: int) -> Iterator[str]:
        """Through the network namespace of a node that runs: its kube-proxy knows the way to the pods."""
        node = next((node for node in self._nodes if node.runs), None)
        if not node:
            raise ClusterError("no node runs, so there is no way to a Service")
        target = f"{cluster_address(self.client, namespace, service)}:{port}"
        program = binaries.ensure(["kube"], Progress()).path("nsforward")
        with forwarder(program, node.netns_file, target, self.names.state) as address:
            yield address

    def images(self, progress: Progress) -> dict[str, str]:
        with Buildah(binaries.ensure(["registry"], progress).path("registry")) as builder:
            return project_images(progress, builder)


def registry_settings() -> dict[str, str]:
    """The folder is the cache's: every cluster serves the same images, and a push needs no cluster."""
    return {
        "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": str(cache.root() / "registry"),
        "REGISTRY_HTTP_ADDR": f":{REGISTRY_PORT}",
        "OTEL_TRACES_EXPORTER": "none",
    }


def all_nodes(names: Names) -> list[NativeNode]:
    """Those of earlier runs with more nodes too."""
    return [NativeNode(names, i) for i in range(1, MOST_NODES + 1)]


def check_folders(folders: list[Path]) -> None:
    """A node has its own /run, /var/lib and /var/log, so what it shares with the host must lie elsewhere."""
    hidden = ("/run", "/var/run", "/var/lib", "/var/log")
    for folder in folders:
        if any(folder.resolve().is_relative_to(Path(place).resolve()) for place in hidden):
            raise ClusterError(
                f"{folder} is below a folder that every node has of its own ({', '.join(hidden)}): "
                "move the checkout, or set MOORAGE_CACHE, to another place"
            )


def why_not() -> str | None:
    """Why the native driver cannot run here."""
    if os.geteuid() != 0:
        return "without Docker a cluster needs root (run as root, or install Docker and kind)"
    try:
        run("unshare", "--mount", "--net", "--pid", "--fork", "true")
    except ClusterError as error:
        return f"without Docker a cluster needs namespaces, which are refused here: {error}"
    return None
