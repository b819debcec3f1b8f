"""kubectl and helm against one cluster and no other: never the caller's own configuration, cache or context."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.commands import run, until
from cluster.interface import ClusterError, ClusterStatus, NodeStatus


@dataclass(frozen=True)
class Client:
    kubectl_path: Path | str
    helm_path: Path | str
    kubeconfig: Path
    scratch: Path  # for caches: those of a cluster of the same address that is gone would be wrong

    def kubectl(self, *args: str, input: str | None = None, timeout: float = 60) -> str:
        common = (f"--kubeconfig={self.kubeconfig}", f"--cache-dir={self.scratch / 'kubectl'}")
        return run(self.kubectl_path, *common, *args, input=input, timeout=timeout)

    def helm(self, *args: str, timeout: float = 300) -> str:
        kinds = ("CACHE", "CONFIG", "DATA")
        folders = {f"HELM_{kind}_HOME": str(self.scratch / "helm" / kind.lower()) for kind in kinds}
        return run(self.helm_path, *args, timeout=timeout, env={**folders, "KUBECONFIG": str(self.kubeconfig)})

    def get(self, *args: str) -> Any:
        return json.loads(self.kubectl("get", "-o", "json", *args))

    def apply(self, *objects: dict[str, Any]) -> None:
        listed = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=json.dumps(listed))

    def node_states(self) -> dict[str, str]:
        return {node["metadata"]["name"]: node_state(node) for node in self.get("nodes")["items"]}

    def wait_nodes_ready(self, names: list[str], timeout: float) -> None:
        def all_ready() -> bool:
            states = self.node_states()
            late = [f"{name} {states.get(name, 'has not registered')}" for name in names if states.get(name) != "Ready"]
            if late:
                raise ClusterError(", ".join(late))
            return True

        until("all nodes are Ready", all_ready, timeout, interval=0.2)

    def server_version(self) -> str:
        version: str = json.loads(self.kubectl("version", "-o", "json", timeout=10))["serverVersion"]["gitVersion"]
        return version

    def status(
        self, running: Mapping[str, bool], address: str, up: bool = True, off: Collection[str] = ()
    ) -> ClusterStatus:
        """What the API server says, and what the driver knows: which programs run and which nodes are switched off."""
        try:
            version, states = self.server_version(), self.node_states()
        except ClusterError:
            return ClusterStatus(up=False, processes=dict(running), address=address)
        states |= dict.fromkeys(off, "off")
        nodes = tuple(NodeStatus(name, state) for name, state in sorted(states.items()))
        return ClusterStatus(up=up, version=version, processes=dict(running), nodes=nodes, address=address)


def node_state(node: dict[str, Any]) -> str:
    conditions = node.get("status", {}).get("conditions", [])
    ready = any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
    return "Ready" if ready else "NotReady"
