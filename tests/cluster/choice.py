"""Chooses the driver: what the user asks for, what is up already, then what the machine can do."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from cluster import lifecycle, native
from cluster.api import ApiCluster
from cluster.existing import ExistingCluster
from cluster.interface import Cluster, ClusterError, Tier, Unavailable
from cluster.names import Names, default_name
from cluster.native import NativeCluster

DEFAULT_NODES = 2
DRIVERS = ("native", "kind")


def open_cluster(tier: Tier = "full", name: str | None = None, nodes: int | None = None) -> Cluster:
    """The cluster of that tier and name, up or not. Raises Unavailable with the reason why there can be none,
    ClusterError for settings that make no sense: those must not look like a machine that cannot.

    An existing cluster is used only when MOORAGE_USE_EXISTING_CLUSTER=1 says so: KUBECONFIG alone is set on many a
    machine, and may lead to somebody's production.
    """
    names = Names(name or default_name(tier))
    if tier == "api":
        return ApiCluster(names)
    if os.environ.get("MOORAGE_USE_EXISTING_CLUSTER") == "1":
        kubeconfig = os.environ.get("KUBECONFIG")
        if not kubeconfig:
            raise ClusterError("MOORAGE_USE_EXISTING_CLUSTER=1 needs KUBECONFIG to say which cluster")
        return ExistingCluster(Path(kubeconfig))
    has = lifecycle.remembered_nodes(names)
    count = max(nodes or asked_nodes() or has or DEFAULT_NODES, has)
    if choose(names) == "kind":
        from cluster.kind import KindCluster  # what Docker needs is of no use to the others

        return KindCluster(names, count)
    return NativeCluster(names, count)


def choose(names: Names) -> str:
    asked = os.environ.get("MOORAGE_CLUSTER_DRIVER", "")
    if asked and asked not in DRIVERS:
        raise ClusterError(f"MOORAGE_CLUSTER_DRIVER must be one of {', '.join(DRIVERS)}, not {asked!r}")
    left = lifecycle.left_by(names)
    chosen = asked or (left if left in DRIVERS else "kind" if docker_answers() else "native")
    if chosen == "native" and (reason := native_reason()):
        raise Unavailable(reason)
    return chosen


def native_reason() -> str | None:
    if not sys.platform.startswith("linux"):
        return "a cluster needs Docker (for kind) here; without Docker it needs Linux and root"
    return native.why_not()


def docker_answers() -> bool:
    if not shutil.which("docker"):
        return False
    try:
        done = subprocess.run(["docker", "info"], capture_output=True, check=False, timeout=10)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def asked_nodes() -> int:
    """What MOORAGE_NODES says, 0 if it says nothing."""
    text = os.environ.get("MOORAGE_NODES", "")
    if text and not (text.isdigit() and 1 <= int(text) <= native.MOST_NODES):
        raise ClusterError(f"MOORAGE_NODES must be a number from 1 to {native.MOST_NODES}, not {text!r}")
    return int(text or 0)


def unavailable(tier: Tier) -> str | None:
    """Why that tier cannot run on this machine, None if it can."""
    try:
        open_cluster(tier)
    except Unavailable as reason:
        return str(reason)
    return None
