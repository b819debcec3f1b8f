"""GPUs from a real device plugin and the real scheduler: what does not fit is said, and heals when asked for less."""

import yaml

from cluster import Cluster
from support import deploy


def test_three_by_three_gpus_on_two_nodes_of_four(moorage: Cluster, model: dict[str, object]) -> None:
    name = "too-many-gpus"
    body = {
        "apiVersion": "moorage.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name},
        "spec": {
            "model": {"uri": "pvc://models/digits/1"},
            "runtime": {"torch": {}},
            "resources": {"gpus": 3, "requests": {"cpu": "20m", "memory": "128Mi"}},
            "replicas": 3,
        },
    }
    moorage.kubectl("apply", "-f", "-", input=yaml.safe_dump(body))
    try:
        obj = deploy.wait_for_condition(moorage, "modeldeployment", name, "CapacityAvailable", "False")
        assert "Insufficient nvidia.com/gpu" in deploy.condition(obj, "CapacityAvailable")["message"]

        def two_ready() -> bool:
            return (deploy.get(moorage, "modeldeployment", name) or {})["status"].get("readyReplicas") == 2

        deploy.eventually(two_ready, 90, "2 of 3 replicas are ready")
        assert deploy.condition(deploy.get(moorage, "modeldeployment", name), "Ready")["status"] != "True"
        moorage.kubectl("scale", "mdep", name, "--replicas=2")
        deploy.wait_for_condition(moorage, "modeldeployment", name, "Ready")
        # The pod that found no place may still be on its way out.
        deploy.wait_for_condition(moorage, "modeldeployment", name, "CapacityAvailable")
    finally:
        moorage.kubectl("delete", "mdep", name)
