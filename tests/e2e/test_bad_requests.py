"""Requests that no server should accept, to both runtimes through their Services: answered as the table says, while
others are served."""

from cluster import Cluster
from support import bad_requests, deploy, digits, infer
from support.load import Load
from support.resources import Manifest

from .test_kubectl_scale import manifest

FEATURES = 64
GROWTH_MIB = 64
NAMES = {"refuses-torch": "torch", "refuses-triton": "triton"}


def test_bad_requests_disturb_nobody(moorage: Cluster, model: dict[str, object]) -> None:
    for name, runtime in NAMES.items():
        moorage.kubectl("apply", "--server-side", "-f", "-", input=manifest(name, "default", runtime={runtime: {}}))
    try:
        for name in NAMES:
            deploy.wait_for_condition(moorage, "modeldeployment", name, "Ready", timeout=120)
        for name, runtime in NAMES.items():
            refuses(moorage, name, torch=runtime == "torch")
        assert [restarts(pod) for name in NAMES for pod in pods(moorage, name)] == [0, 0]
    finally:
        moorage.kubectl("delete", "mdep", *NAMES)


def refuses(cluster: Cluster, name: str, *, torch: bool) -> None:
    x, _ = digits.held_out()
    table = bad_requests.cases(name, FEATURES)
    with cluster.door("default", name, 8080) as address:
        bad_requests.wrong_answers(address, table, torch=torch)  # the first of a kind may load something
        before = memory_mib(cluster, name) if torch else 0.0
        url = f"http://{address}/v2/models/{name}/infer"
        with Load(url, infer.request_body(x[:1]), workers=2, rate=10, max_seconds=300) as load:
            assert bad_requests.wrong_answers(address, table, torch=torch) == []
        assert (load.failures, load.sent > 0) == ({}, True)
        if torch:
            assert memory_mib(cluster, name) - before < GROWTH_MIB


def pods(cluster: Cluster, name: str) -> list[Manifest]:
    return deploy.items(cluster, "pods", selector=f"moorage.dev/model-deployment={name}")


def restarts(pod: Manifest) -> int:
    return sum(container["restartCount"] for container in pod["status"]["containerStatuses"])


def memory_mib(cluster: Cluster, name: str) -> float:
    (pod,) = pods(cluster, name)
    path = f"/api/v1/namespaces/default/pods/{pod['metadata']['name']}:8082/proxy/metrics"
    lines = cluster.kubectl("get", "--raw", path).splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("process_resident_memory_bytes")) / 2**20
