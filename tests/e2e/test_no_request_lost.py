"""Pods are restarted, drained with their node and scaled away under load, and every single request is answered.

Torch and Triton at the same time, two replicas each, through their Services: clients that connect anew each second,
clients of the torch server that keep their connection, and gRPC clients of both that keep their channel for ever. A
client that keeps an HTTP/1.1 connection to Triton for longer than `drain.timeoutSeconds` is not here: Triton never asks
it to leave (docs/operations.md).
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from cluster import Cluster
from support import deploy, digits, infer
from support.grpc_load import GrpcLoad
from support.load import Load

from .test_kubectl_scale import manifest

NAMES = {"kept-torch": "torch", "kept-triton": "triton"}
EVER = 1e6
SECONDS = 400


@pytest.fixture
def served(moorage: Cluster, model: dict[str, object]) -> Iterator[Cluster]:
    for name, runtime in NAMES.items():
        body = manifest(name, "default", replicas=2, runtime={runtime: {}})
        moorage.kubectl("apply", "--server-side", "-f", "-", input=body)
    try:
        for name in NAMES:
            deploy.wait_for_condition(moorage, "modeldeployment", name, "Ready", timeout=120)
        yield moorage
    finally:
        moorage.kubectl("delete", "mdep", *NAMES)


Loads = dict[str, Load | GrpcLoad]


@pytest.fixture
def loads(served: Cluster) -> Iterator[Loads]:
    x, _ = digits.held_out()
    body = infer.request_body(x[:1])
    with ExitStack() as stack:
        address = {name: stack.enter_context(served.door("default", name, 8080)) for name in NAMES}
        channel = {name: stack.enter_context(served.door("default", name, 8081)) for name in NAMES}

        def http(name: str, renew: float) -> Load:
            url = f"http://{address[name]}/v2/models/{name}/infer"
            load = Load(url, body, workers=4, rate=25, max_seconds=SECONDS, renew_seconds=renew)
            return stack.enter_context(load)

        def grpc(name: str) -> GrpcLoad:
            return stack.enter_context(GrpcLoad(channel[name], name, x[:1], rate=25, max_seconds=SECONDS))

        yield {
            "torch, new connections": http("kept-torch", 1),
            "torch, kept connections": http("kept-torch", EVER),
            "torch, kept gRPC channels": grpc("kept-torch"),
            "Triton, new connections": http("kept-triton", 1),
            "Triton, kept gRPC channels": grpc("kept-triton"),
        }


def pods(cluster: Cluster, name: str) -> list[dict[str, Any]]:
    return deploy.items(cluster, "pods", selector=f"moorage.dev/model-deployment={name}")


def settled(cluster: Cluster, replicas: int) -> bool:
    """All are Ready with so many pods, and those that had to go are gone."""
    for name in NAMES:
        obj = deploy.get(cluster, "modeldeployment", name)
        there = pods(cluster, name)
        if not deploy.current(obj) or deploy.condition(obj, "Ready")["status"] != "True" or len(there) != replicas:
            return False
        if any(pod["metadata"].get("deletionTimestamp") for pod in there):
            return False
    return True


def deployment(cluster: Cluster, name: str) -> dict[str, Any]:
    found = deploy.get(cluster, "deployment", name)
    assert found is not None
    return found


def restart(cluster: Cluster) -> None:
    """By hand, on the child itself: it happens once, and the operator neither takes it back nor adds to it."""
    before = {name: deployment(cluster, name) for name in NAMES}
    uids = {name: {pod["metadata"]["uid"] for pod in pods(cluster, name)} for name in NAMES}
    cluster.kubectl("rollout", "restart", *(f"deployment/{name}" for name in NAMES))
    for name in NAMES:
        cluster.kubectl("rollout", "status", f"deployment/{name}", "--timeout=120s", timeout=130)
    deploy.eventually(lambda: settled(cluster, 2), 60, "the former pods are gone")
    for name in NAMES:
        after = deployment(cluster, name)
        assert "kubectl.kubernetes.io/restartedAt" in after["spec"]["template"]["metadata"]["annotations"]
        assert after["metadata"]["generation"] == before[name]["metadata"]["generation"] + 1
        revision = "deployment.kubernetes.io/revision"
        turns = [int(each["metadata"]["annotations"][revision]) for each in (before[name], after)]
        assert turns[1] == turns[0] + 1
        assert not uids[name] & {pod["metadata"]["uid"] for pod in pods(cluster, name)}


def drain(cluster: Cluster) -> None:
    """One of the two nodes, as an administrator empties it, with everything else that runs there."""
    node = pods(cluster, "kept-triton")[0]["spec"]["nodeName"]
    options = ("--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=150s")
    try:
        cluster.kubectl("drain", node, *options, timeout=160)
        assert all(pod["spec"].get("nodeName") != node for name in NAMES for pod in pods(cluster, name))
        deploy.eventually(lambda: settled(cluster, 2), 90, "all replicas are on the other node")
    finally:
        cluster.kubectl("uncordon", node)


def scale_down(cluster: Cluster) -> None:
    cluster.kubectl("scale", "mdep", *NAMES, "--replicas=1")
    deploy.eventually(lambda: settled(cluster, 1), 90, "one pod each is left")


@pytest.mark.timeout(500)
def test_restart_drain_and_scale_down_lose_nothing(served: Cluster, loads: Loads) -> None:
    steps: list[Callable[[Cluster], None]] = [restart, drain, scale_down]
    if served.driver == "existing":
        steps.remove(drain)  # nobody's own nodes are emptied for a test
    lost: dict[str, dict[str, dict[str, int]]] = {}
    time.sleep(3)
    for step in steps:
        begun = time.monotonic()
        sent = {name: load.sent for name, load in loads.items()}
        failed = {name: Counter(load.failures) for name, load in loads.items()}
        step(served)
        time.sleep(1)
        seconds = time.monotonic() - begun
        for name, load in loads.items():
            assert load.sent - sent[name] > 5 * seconds, f"{name}: hardly any load during {step.__name__}"
        new = {name: dict(Counter(load.failures) - failed[name]) for name, load in loads.items()}
        lost[step.__name__] = {name: failures for name, failures in new.items() if failures}
        total = sum(load.sent - sent[name] for name, load in loads.items())
        print(f"{step.__name__}: {seconds:.0f} s, {total} requests, lost: {lost[step.__name__] or 'none'}")
    assert lost == {step.__name__: {} for step in steps}, json.dumps(lost, indent=1)
