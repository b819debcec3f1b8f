"""A Kubernetes cluster that anyone can have: real programs, two commands, nothing left behind.

`open_cluster` gives one of two tiers: "full" (containers run; by kind, or natively as root without Docker) or "api"
(the API server and its controllers only; nodes are kept alive by KWOK). On the command line: `python -m cluster up`.
"""

from cluster.choice import open_cluster, unavailable
from cluster.interface import Cluster, ClusterError, ClusterStatus, Driver, Node, NodeStatus, Tier, Unavailable
from cluster.progress import Progress

__all__ = [
    "Cluster",
    "ClusterError",
    "ClusterStatus",
    "Driver",
    "Node",
    "NodeStatus",
    "Progress",
    "Tier",
    "Unavailable",
    "open_cluster",
    "unavailable",
]
