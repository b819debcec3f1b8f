"""The API tier: a real etcd, API server, controller manager and scheduler on 127.0.0.1, and nodes kept alive by KWOK.

No containers run (KWOK says that pods do), so it needs no root, no namespaces and no packages, and is up in seconds.
Admission, RBAC, CRDs, server-side apply, quotas, garbage collection, controllers and scheduling are the real ones.
"""

import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from cluster import binaries, cache, ports, tools
from cluster.commands import until, watched
from cluster.controlplane import ControlPlane, wait_ready
from cluster.interface import ClusterError, ClusterStatus, Driver, Node, Tier, Unavailable
from cluster.kubectl import Client
from cluster.lifecycle import Removal, enter, exclusively
from cluster.names import Names
from cluster.pki import USERS, Pki
from cluster.processes import Programs
from cluster.progress import Progress

SETTLE_SECONDS = 120
FAKE_NODES = 2
GPUS_PER_NODE = 4
# An address the programs may publish although nobody dials it; loopback ones are refused.
NOBODY = "10.203.0.1"
# One program keeps all nodes alive, a lease each 10 s when it has the time: with many pods it is late by minutes.
NODE_GRACE_SECONDS = 600
PURPOSES = ("apiserver", "etcd", "etcd-peer")
PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok")


class ApiCluster:
    tier: Tier = "api"
    driver: Driver = "api"

    def __init__(self, names: Names) -> None:
        if not sys.platform.startswith("linux"):
            raise Unavailable("the API tier runs Kubernetes' own programs, which needs Linux")
        self.names = names
        self.name = names.name
        self.kubeconfig = names.kubeconfig
        self.programs = Programs(names.state)
        self.pki = Pki(names.state / "pki")

    @property
    def nodes(self) -> list[Node]:
        return []

    @property
    def client(self) -> Client:
        bin_folder = self.names.state / "bin"
        return Client(bin_folder / "kubectl", bin_folder / "helm", self.kubeconfig, self.names.state)

    def up(self, progress: Progress) -> None:
        made = binaries.ensure(binaries.API_MODULES, progress)
        cache.prune(progress)
        with exclusively(self.names, progress), progress.step(f"API tier {self.name}"):
            enter(self.names, self.driver)
            tools.ensure(self.names.state / "bin", made, progress)
            with watched(lambda: self.programs.check(PROGRAMS)):
                self._start(made)
                self._settle()

    def _start(self, made: binaries.Binaries) -> None:
        state = self.names.state
        some_run = any(self.programs.get(name) for name in self.programs.names())
        port = ports.claim(state, PURPOSES, self.names.ports(), keep=some_run)
        self.pki.create(["127.0.0.1"], USERS)
        plane = ControlPlane(
            state, made, self.pki, bind="127.0.0.1", advertise=NOBODY, publish_address=False,
            port=port["apiserver"], etcd_port=port["etcd"], etcd_peer_port=port["etcd-peer"],
            node_grace_seconds=NODE_GRACE_SECONDS,
        )  # fmt: skip
        plane.write_kubeconfigs(["kube-controller-manager", "kube-scheduler", "kwok"])
        self.pki.write_kubeconfig(self.kubeconfig, "admin", f"https://127.0.0.1:{plane.port}")
        for name, argv in plane.server().items():
            self.programs.start(name, argv)
        wait_ready(self.pki, plane.port)
        for name, argv in plane.controllers().items():
            self.programs.start(name, argv)
        self.programs.start("kwok", kwok(made.path("kwok"), state / "kwok.kubeconfig"), env={"HOME": str(state)})

    def _settle(self) -> None:
        """Until a pod can be made and is scheduled."""
        names = [f"fake{i}" for i in range(1, FAKE_NODES + 1)]
        self.client.apply(*(fake_node(name) for name in names))
        self.client.wait_nodes_ready(names, timeout=SETTLE_SECONDS)
        until("the namespace default has its service account", self._has_service_account, SETTLE_SECONDS)

    def _has_service_account(self) -> bool:
        return bool(self.client.kubectl("get", "serviceaccount", "default", "-n", "default", "-o", "name"))

    def down(self, progress: Progress) -> None:
        with exclusively(self.names, progress), progress.step(f"removing {self.name}"), Removal(self.names):
            pass  # its programs and its folder are all of it

    def status(self) -> ClusterStatus:
        running = {name: self.programs.get(name) is not None for name in PROGRAMS}
        if not any(running.values()):
            return ClusterStatus(up=False)
        port = ports.claim(self.names.state, PURPOSES, [], keep=True)["apiserver"]
        return self.client.status(running, f"https://127.0.0.1:{port}", up=all(running.values()))

    def kubectl(self, *args: str, input: str | None = None, timeout: float = 60) -> str:
        return self.client.kubectl(*args, input=input, timeout=timeout)

    def helm(self, *args: str, timeout: float = 300) -> str:
        return self.client.helm(*args, timeout=timeout)

    def door(self, namespace: str, service: str, port: int) -> AbstractContextManager[str]:
        raise ClusterError("pods of the API tier do not run, so there is nothing behind a Service")

    def images(self, progress: Progress) -> dict[str, str]:
        raise ClusterError("pods of the API tier do not run, so it has no images")


def kwok(program: Path, kubeconfig: Path) -> list[str]:
    return [
        str(program),
        f"--kubeconfig={kubeconfig}",
        "--manage-all-nodes=false",
        "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
        "--node-lease-duration-seconds=40",
    ]


def fake_node(name: str) -> dict[str, Any]:
    # More pods than a kubelet would take: nothing runs in them, and those of a test before may still be leaving.
    room = {"cpu": "64", "memory": "512Gi", "pods": "400", "nvidia.com/gpu": str(GPUS_PER_NODE)}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {"kwok.x-k8s.io/node": "fake", "node.alpha.kubernetes.io/ttl": "0"},
            "labels": {
                "type": "kwok",
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
                "kubernetes.io/hostname": name,
            },
        },
        "status": {"allocatable": room, "capacity": room},
    }
