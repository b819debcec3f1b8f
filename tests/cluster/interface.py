"""What a cluster is to those who use it: one interface, with the drivers (native, kind, existing, api) behind it.

Nothing here runs anything; the drivers are in modules of their own and `open_cluster` in the package chooses one.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from cluster.progress import Progress

Tier = Literal["full", "api"]
Driver = Literal["native", "kind", "existing", "api"]


class ClusterError(Exception):
    """Something about the cluster failed; the message holds the failing tool's own words and what to do."""


class Unavailable(Exception):
    """This machine cannot run what was asked for; the message says why and what it would take."""


@dataclass(frozen=True)
class NodeStatus:
    name: str
    state: str  # Ready, NotReady, or off


@dataclass(frozen=True)
class ClusterStatus:
    up: bool
    version: str = ""
    processes: dict[str, bool] = field(default_factory=dict)  # name → runs
    nodes: tuple[NodeStatus, ...] = ()
    address: str = ""  # of the API server, from the caller's network namespace


class Node(Protocol):
    """A node and the faults it can suffer. Every method may be called in any state: twice is harmless."""

    name: str

    def pull_plug(self) -> None:
        """Everything on the node dies at once, as by a power cut; its disk stays."""

    def boot(self) -> None:
        """Starts it again with its disk; returns when it runs, which is before Kubernetes calls it Ready."""

    def cut(self) -> None:
        """Its network is gone, its processes run on."""

    def join(self) -> None:
        """Its network is back."""

    def freeze(self) -> None:
        """The kubelet hangs while its containers run on."""

    def thaw(self) -> None:
        """The kubelet goes on."""

    def restart_kubelet(self) -> None:
        """The kubelet dies and is started again."""


class Cluster(Protocol):
    name: str
    tier: Tier
    driver: Driver
    kubeconfig: Path  # an administrator's, usable from the caller's own network namespace

    @property
    def nodes(self) -> list[Node]:
        """Those that can be made to fail; none where the driver cannot."""

    def up(self, progress: Progress) -> None:
        """Brings it up. Twice is harmless; what is half up is repaired."""

    def down(self, progress: Progress) -> None:
        """Leaves no process, mount, network namespace, cgroup or changed sysctl, also after a killed run."""

    def status(self) -> ClusterStatus: ...

    def kubectl(self, *args: str, input: str | None = None, timeout: float = 60) -> str:
        """kubectl's output, or ClusterError with kubectl's words."""

    def helm(self, *args: str, timeout: float = 300) -> str: ...

    def door(self, namespace: str, service: str, port: int) -> AbstractContextManager[str]:
        """An address, "127.0.0.1:PORT", that reaches the Service's port, for any number of connections."""

    def images(self, progress: Progress) -> dict[str, str]:
        """Builds what is missing of the project's images, "operator", "torch" and "triton", and brings them to where
        the nodes find them; the names to use in manifests."""
