"""`kubectl scale` works, a re-apply that says nothing of replicas leaves it, and no request is lost on the way down."""

import time

import yaml

from cluster import Cluster
from support import deploy, digits, infer
from support.load import Load


def manifest(name: str, namespace: str, **spec: object) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "moorage.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "model": {"uri": "pvc://models/digits/1"},
                "runtime": {"torch": {}},
                "resources": {"requests": {"cpu": "20m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}},
                **spec,
            },
        }
    )


def test_scale_up_reapply_and_scale_down_under_load(moorage: Cluster, model: dict[str, object]) -> None:
    name, body = "hand-scaled", manifest("hand-scaled", "default")
    apply = ("apply", "--server-side", "-f", "-")
    moorage.kubectl(*apply, input=body)
    try:
        deploy.wait_for_condition(moorage, "modeldeployment", name, "Ready")
        moorage.kubectl("scale", "mdep", name, "--replicas=3")
        moorage.kubectl(*apply, input=body)

        def replicas(n: int) -> bool:
            obj = deploy.get(moorage, "modeldeployment", name) or {}
            return deploy.condition(obj, "Ready")["status"] == "True" and obj["status"]["readyReplicas"] == n

        deploy.eventually(lambda: replicas(3), 90, "3 ready replicas")
        x, _ = digits.held_out()
        with moorage.door("default", name, 8080) as address:
            url = f"http://{address}/v2/models/{name}/infer"
            with Load(url, infer.request_body(x[:1]), workers=8, rate=50, max_seconds=120) as load:
                time.sleep(3)
                moorage.kubectl("scale", "mdep", name, "--replicas=1")
                deploy.eventually(lambda: replicas(1), 60, "1 ready replica")
                selector = f"moorage.dev/model-deployment={name}"
                pods = lambda: deploy.items(moorage, "pods", selector=selector)  # noqa: E731
                deploy.eventually(lambda: len(pods()) == 1, 90, "the drained pods are gone")
        assert load.failures == {}
        assert load.sent > 300
    finally:
        moorage.kubectl("delete", "mdep", name)
