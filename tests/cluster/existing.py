"""A cluster that somebody else made: used when the user asks for it, never brought up, never taken down.

It must have what the tests stand on (GPUs offered, Prometheus, a default storage class, the images in a registry that
it reaches): this driver checks only that the cluster answers.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.door import port_forward
from cluster.interface import ClusterError, ClusterStatus, Driver, Node, Tier, Unavailable
from cluster.kubectl import Client
from cluster.progress import Progress


class ExistingCluster:
    tier: Tier = "full"
    driver: Driver = "existing"
    name = "existing"

    def __init__(self, kubeconfig: Path) -> None:
        if not kubeconfig.is_file():
            raise Unavailable(f"KUBECONFIG must name one file to use an existing cluster; {kubeconfig} is none")
        missing = [tool for tool in ("kubectl", "helm") if not shutil.which(tool)]
        if missing:
            raise Unavailable(f"an existing cluster is used with the machine's own tools; install {', '.join(missing)}")
        self.kubeconfig = kubeconfig
        self._scratch = Path(tempfile.gettempdir()) / f"moorage-existing-{os.getuid()}"
        self.client = Client("kubectl", "helm", kubeconfig, self._scratch)

    @property
    def nodes(self) -> list[Node]:
        return []

    def up(self, progress: Progress) -> None:
        with progress.step(f"the existing cluster of {self.kubeconfig}"):
            self.client.server_version()

    def down(self, progress: Progress) -> None:
        progress.note("the existing cluster is not ours to take down")

    def status(self) -> ClusterStatus:
        return self.client.status({}, address="")

    def kubectl(self, *args: str, input: str | None = None, timeout: float = 60) -> str:
        return self.client.kubectl(*args, input=input, timeout=timeout)

    def helm(self, *args: str, timeout: float = 300) -> str:
        return self.client.helm(*args, timeout=timeout)

    @contextmanager
    def door(self, namespace: str, service: str, port: int) -> Iterator[str]:
        with port_forward(self.client, namespace, service, port) as address:
            yield address

    def images(self, progress: Progress) -> dict[str, str]:
        """What the user says: nothing can be built into somebody else's registry."""
        names = {key: os.environ.get(f"MOORAGE_IMAGE_{key.upper()}", "") for key in ("operator", "torch", "triton")}
        if not all(names.values()):
            variables = ", ".join(f"MOORAGE_IMAGE_{key.upper()}" for key, name in names.items() if not name)
            raise ClusterError(f"set {variables} to images that the existing cluster can pull")
        return names
