"""An API tier of a benchmark's own: fresh, with room for many pods, controllers that freeze on demand, then gone."""

import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cluster.api import PROGRAMS, ApiCluster, fake_node
from cluster.interface import ClusterError
from cluster.names import Names, default_name
from cluster.progress import Progress
from support import deploy
from support.api_tier import apply_crds, operator_kubeconfig
from support.operator_process import OperatorProcess

CONTROLLERS = ("kube-controller-manager", "kube-scheduler", "kwok")
NODES = 8


class Tier:
    def __init__(self, cluster: ApiCluster, folder: Path) -> None:
        self.cluster, self._folder = cluster, folder
        self.kubeconfig = cluster.kubeconfig
        self.operator_kubeconfig = operator_kubeconfig(cluster, folder)
        self._operators = 0

    def pids(self) -> dict[str, int]:
        running = {name: self.cluster.programs.get(name) for name in PROGRAMS}
        return {name: process.pid for name, process in running.items() if process}

    def version(self) -> str:
        return self.cluster.status().version

    def namespaces(self, name: str, count: int) -> list[str]:
        names = [f"{name}-{number}" for number in range(count)]
        for each in names:
            self.cluster.kubectl("create", "namespace", each)
        return names

    def operator(self, **settings: object) -> OperatorProcess:
        """A new one, not started: with the chart's rights."""
        self._operators += 1
        # A lease of 15 s is lost where all programs of a cluster share two cores with others, and the run with it.
        usual = {"log_level": "info", "lease_duration_seconds": 60, "lease_renew_deadline_seconds": 45}
        name = f"operator-{self._operators}"
        return OperatorProcess(self.operator_kubeconfig, self._folder, name, **{**usual, **settings})

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Nobody but the API server answers: neither controllers nor scheduler nor nodes."""
        pids = [self.pids()[name] for name in CONTROLLERS]
        try:
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            yield
        finally:
            # The nodes first, so that nobody finds them dead.
            for pid in reversed(pids):
                os.kill(pid, signal.SIGCONT)


@contextmanager
def api_tier(progress: Progress) -> Iterator[Tier]:
    # Told to stop it clears up, as after an error.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    cluster = ApiCluster(Names(f"{default_name('api')}-bench"))
    cluster.down(progress)  # what a killed run left
    try:
        try:
            cluster.up(progress)
        except ClusterError:  # on a busy machine one program may not have waited long enough for another
            cluster.up(progress)
        apply_crds(cluster)
        cluster.kubectl("create", "namespace", deploy.NAMESPACE)
        add_roomy_nodes(cluster, [f"roomy{number}" for number in range(NODES)])
        with tempfile.TemporaryDirectory(prefix="moorage-bench-") as folder:
            yield Tier(cluster, Path(folder))
    finally:
        cluster.down(progress)


def add_roomy_nodes(cluster: ApiCluster, names: Sequence[str]) -> None:
    """Nodes on which no number of pods is too many: 110 each would need a hundred nodes, and that is another test."""
    nodes = [fake_node(name) for name in names]
    for node in nodes:
        for room in node["status"].values():
            room.update(cpu="100000", memory="1000Ti", pods="100000")
    cluster.client.apply(*nodes)
    cluster.client.wait_nodes_ready(list(names), timeout=60)
