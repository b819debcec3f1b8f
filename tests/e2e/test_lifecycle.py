"""Deleting removes everything; the same name works again; Helm's uninstall takes nobody's models away."""

import httpx

from cluster import Cluster
from support import deploy, digits, infer

from .test_kubectl_scale import manifest

OURS = "deployments,services,poddisruptionbudgets,configmaps,replicasets,pods,jobs"


def left(cluster: Cluster, selector: str) -> list[str]:
    return [f"{o['kind']}/{o['metadata']['name']}" for o in deploy.items(cluster, OURS, selector=selector)]


def serving_pods(cluster: Cluster) -> set[str]:
    pods = deploy.items(cluster, "pods", selector="moorage.dev/model-deployment=digits")
    return {pod["metadata"]["uid"] for pod in pods}


def test_delete_model_deployment_and_create_it_again(moorage: Cluster, model: dict[str, object]) -> None:
    body = manifest("comes-back", "default", replicas=2)
    for _ in range(2):
        moorage.kubectl("apply", "-f", "-", input=body)
        deploy.wait_for_condition(moorage, "modeldeployment", "comes-back", "Ready")
        moorage.kubectl("delete", "mdep", "comes-back")
        gone = lambda: not left(moorage, "moorage.dev/model-deployment=comes-back")  # noqa: E731
        deploy.eventually(gone, 90, "children are gone")


def test_delete_training_job_and_create_it_again(moorage: Cluster, model: dict[str, object]) -> None:
    quickstart = str(deploy.ROOT / "examples/quickstart")
    moorage.kubectl("delete", "tjob", "digits")
    gone = lambda: not left(moorage, "moorage.dev/training-job=digits")  # noqa: E731
    deploy.eventually(gone, 60, "children are gone")
    moorage.kubectl("apply", "-f", quickstart)
    deploy.wait_for_condition(moorage, "trainingjob", "digits", "Succeeded", timeout=180)


def test_helm_uninstall_keeps_crds_resources_and_serving_pods(
    moorage: Cluster, images: dict[str, str], model: dict[str, object]
) -> None:
    x, truth = digits.held_out()
    deploy.wait_for_condition(moorage, "modeldeployment", "digits", "Ready", timeout=120)
    before = serving_pods(moorage)
    moorage.helm("uninstall", deploy.RELEASE, "-n", deploy.NAMESPACE, "--wait")
    try:
        assert deploy.get(moorage, "crd", "modeldeployments.moorage.dev")
        assert deploy.get(moorage, "modeldeployment", "digits")
        with moorage.door("default", "digits", 8080) as address:
            assert httpx.get(f"http://{address}/v2/health/ready").status_code == 200
            assert infer.over_http(address, "digits", x).accuracy(truth) >= 0.95
    finally:
        deploy.install(moorage, images)
    deploy.wait_for_condition(moorage, "modeldeployment", "digits", "Ready", timeout=60)
    assert before <= serving_pods(moorage)


def test_helm_test_passes(moorage: Cluster) -> None:
    assert "Succeeded" in moorage.helm("test", deploy.RELEASE, "-n", deploy.NAMESPACE)
