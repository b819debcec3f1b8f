"""The cluster's network: a namespace for the control plane with a bridge in it, and one for each node on that bridge.

Everything lies inside these namespaces; the host's own network has not a single interface, route or rule of ours.
All traffic of pods is routed (10.201.I.0/24 lives on node I), none is bridged. There is no way out to the internet.
"""

import contextlib
from pathlib import Path

from cluster.commands import run
from cluster.interface import ClusterError
from cluster.names import Names

CONTROL_ADDRESS = "10.202.0.1"
NETNS_FOLDER = Path("/run/netns")


def node_address(i: int) -> str:
    return f"10.202.0.{10 + i}"


def pod_network(i: int) -> str:
    return f"10.201.{i}.0/24"


ALL_PODS = "10.201.0.0/16"


def netns_file(netns: str) -> Path:
    return NETNS_FOLDER / netns


def enter(netns: str) -> list[str]:
    # Not `ip netns exec`: it hides /sys/fs/cgroup.
    return ["nsenter", f"--net={netns_file(netns)}"]


def ip(netns: str, *args: str) -> None:
    run("ip", "-n", netns, *args)


def begin(netns: str) -> bool:
    """A new namespace, unless a whole one is there: its default route is what is made last. A file without a namespace
    behind it (a kill at the wrong moment, a reboot with /run on a disk) counts as none."""
    if netns_file(netns).exists():
        with contextlib.suppress(ClusterError):
            if run("ip", "-n", netns, "route", "show", "default"):
                return False
        run("ip", "netns", "del", netns)
    run("ip", "netns", "add", netns)
    return True


def create_control(names: Names) -> None:
    netns = names.control_netns
    if not begin(netns):
        return
    ip(netns, "link", "set", "lo", "up")
    ip(netns, "link", "add", "br0", "type", "bridge")
    ip(netns, "addr", "add", f"{CONTROL_ADDRESS}/24", "dev", "br0")
    ip(netns, "link", "set", "br0", "up")
    settings = ("net.ipv4.ip_forward=1", "net.ipv4.conf.all.send_redirects=0", "net.ipv4.conf.br0.send_redirects=0")
    run(*enter(netns), "sysctl", "-qw", *settings)
    ip(netns, "route", "add", "default", "dev", "br0")


def create_node(names: Names, i: int) -> None:
    netns, control = names.node_netns(i), names.control_netns
    if not begin(netns):
        return
    ip(netns, "link", "set", "lo", "up")
    ip(control, "link", "add", f"n{i}", "type", "veth", "peer", "name", "eth0", "netns", netns)
    ip(netns, "addr", "add", f"{node_address(i)}/24", "dev", "eth0")
    ip(netns, "link", "set", "eth0", "up")
    run(*enter(netns), "sysctl", "-qw", "net.ipv4.ip_forward=1")
    ip(control, "link", "set", f"n{i}", "master", "br0")
    join_node(names, i)
    ip(netns, "route", "add", "default", "via", CONTROL_ADDRESS)


def join_node(names: Names, i: int) -> None:
    ip(names.control_netns, "link", "set", f"n{i}", "up")
    ip(names.control_netns, "route", "replace", pod_network(i), "via", node_address(i))


def cut_node(names: Names, i: int) -> None:
    ip(names.control_netns, "link", "set", f"n{i}", "down")


def ours(names: Names, netns: str) -> bool:
    """Whether this cluster made it. Others name theirs too, some by a bare number."""
    prefix = names.node_netns(0).removesuffix("0")
    return netns == names.control_netns or (netns.startswith(prefix) and netns.removeprefix(prefix).isdigit())


def remove(names: Names) -> None:
    if not NETNS_FOLDER.is_dir():
        return
    failures = []
    for path in sorted(NETNS_FOLDER.iterdir()):
        if ours(names, path.name):
            try:
                run("ip", "netns", "del", path.name)
            except ClusterError as error:
                failures.append(str(error))
    if failures:
        raise ClusterError("\n".join(failures))
    # iproute2 mounts this folder onto itself at its first use; nobody needs that while it is empty.
    if not any(NETNS_FOLDER.iterdir()) and str(NETNS_FOLDER) in Path("/proc/self/mounts").read_text().split():
        run("umount", NETNS_FOLDER)
