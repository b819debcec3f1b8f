"""A door from the caller's network namespace to a Service, for as long as a block lasts."""

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cluster.interface import ClusterError
from cluster.kubectl import Client
from cluster.processes import MARK


def cluster_address(client: Client, namespace: str, service: str) -> str:
    """The Service's own address, which kube-proxy spreads over the pods."""
    address = client.get("service", service, "-n", namespace)["spec"].get("clusterIP", "None")
    if address == "None":
        raise ClusterError(f"Service {namespace}/{service} is headless: it has no address to open a door to")
    return str(address)


@contextmanager
def forwarder(program: Path, netns_file: Path, target: str, state: Path) -> Iterator[str]:
    """Connections come out in another network namespace."""
    with listening([str(program), "127.0.0.1:0", str(netns_file), target], {MARK: str(state)}) as address:
        yield address


@contextmanager
def port_forward(client: Client, namespace: str, service: str, port: int) -> Iterator[str]:
    """Through the API server to one pod of the Service; it ends with that pod, and kube-proxy is not on the way."""
    argv = [str(client.kubectl_path), f"--kubeconfig={client.kubeconfig}"]
    with listening([*argv, "port-forward", "-n", namespace, f"service/{service}", f":{port}"], {}) as address:
        yield address


@contextmanager
def listening(argv: Sequence[str], environment: dict[str, str]) -> Iterator[str]:
    """Runs a program whose first line of output says on which port of 127.0.0.1 it listens."""
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **environment},
        ) as process,
    ):
        try:
            assert process.stdout is not None
            found = re.search(r"127\.0\.0\.1:\d+", process.stdout.readline())
            if not found:
                errors.seek(0)
                raise ClusterError(f"no door: {errors.read().strip() or 'the forwarder ended without a word'}")
            yield found[0]
        finally:
            process.kill()
