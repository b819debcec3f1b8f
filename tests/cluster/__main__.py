"""`python -m cluster`: brings a cluster up and down and says what runs."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Annotated, Literal

import typer
from rich.console import Console

from cluster import runs
from cluster.choice import open_cluster
from cluster.interface import Cluster, ClusterError, ClusterStatus, Tier, Unavailable
from cluster.lifecycle import tier_of
from cluster.names import CHECKOUT, default_name
from cluster.progress import Progress

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
console = Console(highlight=False, soft_wrap=True)

TierOption = Annotated[Tier, typer.Option(help="full: containers run; api: only the API server and its controllers")]
NameOption = Annotated[str | None, typer.Option(help="of the cluster; otherwise derived from the checkout")]
NodesOption = Annotated[int | None, typer.Option(help="how many nodes; otherwise MOORAGE_NODES, or 2")]
ARGUMENTS = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command()
def up(tier: TierOption = "full", name: NameOption = None, nodes: NodesOption = None) -> None:
    """Bring the cluster up. Harmless when it is up; repairs what is half up."""
    cluster = open_cluster(tier, name, nodes)
    cluster.up(Progress())
    console.print(usage(cluster), markup=False)


@app.command()
def down(name: NameOption = None) -> None:
    """Take the cluster down and leave nothing behind; without a name, every cluster of this checkout."""
    progress = Progress()
    failures = []
    for cluster in opened(name):
        try:
            cluster.down(progress)
        except ClusterError as error:
            failures.append(str(error))
    if not name and (count := runs.end_orphans()):
        progress.note(f"ended {count} processes of test runs that were killed")
    if failures:
        raise ClusterError("\n".join(failures))


@app.command()
def status(name: NameOption = None) -> None:
    """Say what runs."""
    for cluster in opened(name):
        console.print(f"{cluster.name} ({cluster.tier} tier, {cluster.driver})", markup=False)
        show(cluster.status())


@app.command(context_settings=ARGUMENTS)
def kubectl(context: typer.Context) -> None:
    """Run the cluster's kubectl as its administrator."""
    cluster = open_cluster()
    path = cluster.kubeconfig.parent / "bin" / "kubectl"
    os.execvp(path if path.exists() else "kubectl", ["kubectl", f"--kubeconfig={cluster.kubeconfig}", *context.args])


@app.command(context_settings=ARGUMENTS)
def helm(context: typer.Context) -> None:
    """Run the cluster's helm."""
    console.out(open_cluster().helm(*context.args), end="")


Fault = Literal["pull-plug", "boot", "cut", "join", "freeze", "thaw", "restart-kubelet"]


@app.command()
def node(name: str, fault: Fault) -> None:
    """Let a node suffer a fault, or recover from it: python -m cluster node node1 pull-plug."""
    nodes = {node.name: node for node in open_cluster().nodes}
    if name not in nodes:
        raise ClusterError(
            f"there is no node {name!r}; there are {', '.join(nodes) or 'none that can be made to fail'}"
        )
    getattr(nodes[name], fault.replace("-", "_"))()


def opened(name: str | None) -> Iterator[Cluster]:
    """The named cluster or, without a name, all of this checkout."""
    if name:
        yield open_cluster(tier_of(name), name)
        return
    folder = CHECKOUT / ".cluster"
    here = {path.name for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else set()
    for found in sorted(here):
        yield open_cluster(tier_of(found), found)
    if default_name("full") not in here:  # somebody may have removed its folder by hand
        with contextlib.suppress(Unavailable):
            yield open_cluster("full")


def show(status: ClusterStatus) -> None:
    console.print(f"  {'up' if status.up else 'not up'} {status.version} {status.address}".rstrip(), markup=False)
    nodes = [f"{node.name} {node.state}" for node in status.nodes]
    running = [name for name, runs in status.processes.items() if runs]
    ended = [name for name, runs in status.processes.items() if not runs]
    for title, listed in (("nodes", nodes), ("runs", running), ("has ended", ended)):
        if listed:
            console.print(f"  {title}: {', '.join(listed)}", markup=False)


def usage(cluster: Cluster) -> str:
    lines = [f"{cluster.name} is up. To use it:", f"  export KUBECONFIG={cluster.kubeconfig}"]
    tools = cluster.kubeconfig.parent / "bin"
    if tools.is_dir():
        lines.append(f"  export PATH={tools}:$PATH        # kubectl and helm of its versions")
    return "\n".join(lines)


def main() -> int:
    runs.begin()
    try:
        app(standalone_mode=False)
    except typer.Exit as ended:
        return ended.exit_code
    except (ClusterError, Unavailable, ValueError) as error:
        Console(stderr=True, soft_wrap=True).print(str(error), style="red", markup=False, highlight=False)
        return 1
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted; `down` cleans up what is half up", style="red")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
