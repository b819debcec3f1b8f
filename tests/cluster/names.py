"""Everything that is derived from a cluster's name, so that two clusters on one machine never meet.

The default name is derived from the checkout's path: two checkouts have two clusters without anybody choosing names.
"""

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]

# Below the kernel's own range for outgoing connections (32768 and up), so that nobody gets these by chance.
FIRST_PORT, PORT_BLOCKS, PORTS_PER_BLOCK = 20000, 1200, 10

VALID_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?")


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def default_name(tier: str, checkout: Path = CHECKOUT) -> str:
    suffix = "-api" if tier == "api" else ""
    return f"moorage-{digest(str(checkout.resolve()))[:6]}{suffix}"


@dataclass(frozen=True)
class Names:
    name: str
    checkout: Path = CHECKOUT

    def __post_init__(self) -> None:
        if not VALID_NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} cannot name a cluster: use up to 40 of a-z, 0-9 and -, and no - at an end")

    @cached_property
    def state(self) -> Path:
        """Everything the cluster writes; gone after `down`."""
        return self.checkout / ".cluster" / self.name

    @property
    def marker(self) -> str:
        """The value of MOORAGE_CLUSTER in the environment of each of the cluster's processes: how strays are found."""
        return str(self.state)

    @property
    def kubeconfig(self) -> Path:
        return self.state / "kubeconfig"

    @property
    def logs(self) -> Path:
        return self.state / "log"

    @property
    def volumes(self) -> Path:
        """The shared volume: every node sees this folder at this path."""
        return self.state / "volumes"

    @property
    def control_netns(self) -> str:
        return f"{self.name}-cp"

    def node(self, i: int) -> str:
        """The Kubernetes name of node i (from 1)."""
        return f"node{i}"

    def node_netns(self, i: int) -> str:
        return f"{self.name}-node{i}"

    def cgroup(self, i: int) -> str:
        return f"{self.name}-node{i}"

    def node_folder(self, i: int) -> Path:
        return self.state / f"node{i}"

    def ports(self) -> list[int]:
        """The ports this cluster tries first on 127.0.0.1."""
        block = int(digest(self.name + str(self.checkout)), 16) % PORT_BLOCKS
        first = FIRST_PORT + block * PORTS_PER_BLOCK
        return list(range(first, first + PORTS_PER_BLOCK))
