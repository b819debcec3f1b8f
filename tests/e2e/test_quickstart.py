"""The quickstart as it lies in examples/: trained, served on torch and on Triton, scaled up and down by its load."""

import time
from collections.abc import Iterator

import pytest
import yaml

from cluster import Cluster
from support import deploy, digits, infer
from support.load import Load


@pytest.fixture(scope="module")
def served(moorage: Cluster, model: dict[str, object]) -> Cluster:
    for name in ("digits", "digits-triton"):
        deploy.wait_for_condition(moorage, "modeldeployment", name, "Ready", timeout=180)
    return moorage


def test_training_reports_what_it_made(served: Cluster, model: dict[str, object]) -> None:
    assert len(str(model["sha256"])) == 64
    assert model["uri"] == "pvc://models/digits/1"
    status = (deploy.get(served, "trainingjob", "digits") or {})["status"]
    assert float(status["metrics"]["accuracy"]) >= 0.9
    assert status["progress"]["percent"] == 100


@pytest.mark.parametrize("name", ["digits", "digits-triton"])
def test_both_runtimes_serve_the_trained_model(served: Cluster, name: str, model: dict[str, object]) -> None:
    x, truth = digits.held_out()
    status = (deploy.get(served, "modeldeployment", name) or {})["status"]
    assert status["model"]["sha256"] == model["sha256"]
    with served.door("default", name, 8080) as address:
        assert infer.over_http(address, name, x).accuracy(truth) >= 0.95
    with served.door("default", name, 8081) as address:
        assert infer.over_grpc(address, name, x).accuracy(truth) >= 0.95


@pytest.fixture
def scaled_triton(served: Cluster) -> Iterator[str]:
    """The quickstart's Triton example has a fixed number of replicas: here the same, scaled by its load."""
    body = {
        "apiVersion": "moorage.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "scaled-triton"},
        "spec": {
            "model": {"uri": "pvc://models/digits/1"},
            "runtime": {"triton": {}},
            "resources": {"requests": {"cpu": "50m", "memory": "256Mi"}},
            "scaling": {
                "maxReplicas": 2,
                "metrics": [{"type": "Concurrency", "target": "1"}],
                "scaleDown": {"stabilizationSeconds": 15},
            },
        },
    }
    served.kubectl("apply", "-f", "-", input=yaml.safe_dump(body))
    deploy.wait_for_condition(served, "modeldeployment", "scaled-triton", "Ready", timeout=120)
    yield "scaled-triton"
    served.kubectl("delete", "mdep", "scaled-triton")


@pytest.mark.timeout(400)
def test_torch_replicas_follow_the_load_and_no_request_fails(served: Cluster) -> None:
    follow_the_load(served, "digits", workers=24, rows=16)


@pytest.mark.timeout(400)
def test_triton_replicas_follow_the_load_and_no_request_fails(served: Cluster, scaled_triton: str) -> None:
    follow_the_load(served, scaled_triton, workers=24, rows=16)


def follow_the_load(served: Cluster, name: str, workers: int, rows: int) -> None:
    x, _ = digits.held_out()

    def ready() -> int:
        return int((deploy.get(served, "modeldeployment", name) or {})["status"].get("readyReplicas", 0))

    deploy.eventually(lambda: ready() == 1, 120, "one replica before the load")
    with served.door("default", name, 8080) as address:
        url = f"http://{address}/v2/models/{name}/infer"
        with Load(url, infer.request_body(x[:rows]), workers=workers, max_seconds=150) as heavy:
            deploy.eventually(lambda: ready() > 1, 120, "more replicas under load")
            status = (deploy.get(served, "modeldeployment", name) or {})["status"]
            assert "target" in status["scaling"]["reason"]
            assert deploy.condition({"status": status}, "ScalingActive")["status"] == "True"
        with Load(url, infer.request_body(x[:1]), workers=4, rate=20, max_seconds=250) as light:
            deploy.eventually(lambda: ready() <= 1, 200, "the replicas go away again")
            time.sleep(8)  # the pods that were told to go are still draining: failures would come now
    assert (heavy.failures, light.failures) == ({}, {})


def test_the_files_are_still_what_is_in_the_cluster(served: Cluster) -> None:
    assert deploy.drift(served, "-f", str(deploy.ROOT / "examples/quickstart")) == ""
