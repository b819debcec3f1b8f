"""Ports on 127.0.0.1 for a cluster: derived from its name, checked to be free, and remembered in its folder."""

import contextlib
import json
import socket
from collections.abc import Iterable
from pathlib import Path

from cluster.interface import ClusterError


def free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that lingers in TIME_WAIT can be had
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def unused(count: int) -> list[int]:
    """Ports that nobody has now, all different."""
    with contextlib.ExitStack() as probes:
        sockets = [probes.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def claim(state: Path, purposes: Iterable[str], candidates: Iterable[int], keep: bool) -> dict[str, int]:
    """A port for each purpose. `keep` says that the cluster's programs hold the remembered ones now."""
    note = state / "ports.json"
    if note.exists():
        remembered: dict[str, int] = json.loads(note.read_text())
        if keep or all(free(port) for port in remembered.values()):
            return remembered
    wanted = list(purposes)
    found = [port for port in candidates if free(port)][: len(wanted)]
    if len(found) < len(wanted):
        raise ClusterError("every port this cluster could use is taken: give the cluster another name with --name")
    claimed = dict(zip(wanted, found, strict=True))
    state.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(claimed))
    return claimed
