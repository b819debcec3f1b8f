"""A ModelDeployment becomes a Deployment, a Service and a status that tells the truth about them."""

from cluster import Cluster
from support import deploy
from support.operator_process import OperatorProcess
from support.resources import model_deployment, without_volumes


def test_a_model_deployment_becomes_ready(api: Cluster, operator: OperatorProcess, ns: str, apply) -> None:
    apply(model_deployment(**without_volumes(replicas=2)))
    ready = deploy.wait_for_condition(api, "mdep", "digits", "Ready", namespace=ns)
    status = ready["status"]
    assert (status["replicas"], status["readyReplicas"], status["replicasSummary"]) == (2, 2, "2/2")
    assert status["url"] == f"http://digits.{ns}.svc:8080"
    for kind in ("deployment", "service", "poddisruptionbudget"):
        child = deploy.get(api, kind, "digits", ns)
        assert child is not None, kind
        (owner,) = child["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"], owner["controller"]) == ("ModelDeployment", ready["metadata"]["uid"], True)
        assert child["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "moorage"
    assert "finalizers" not in ready["metadata"]
    assert not any("kopf" in name for name in ready["metadata"].get("annotations", {}))


def test_kubectl_scale_is_followed_both_ways(api: Cluster, operator: OperatorProcess, ns: str, apply) -> None:
    apply(model_deployment(**without_volumes()), options=("--server-side",))
    deploy.wait_for_condition(api, "mdep", "digits", "Ready", namespace=ns)
    assert deploy.get(api, "poddisruptionbudget", "digits", ns) is None, "one replica cannot be kept up by a budget"
    api.kubectl("scale", "mdep", "digits", "-n", ns, "--replicas=3")
    ready = deploy.wait_for_condition(api, "mdep", "digits", "Ready", namespace=ns)
    assert ready["status"]["readyReplicas"] == 3
    assert deploy.get(api, "poddisruptionbudget", "digits", ns) is not None

    # The user's manifest says nothing of replicas, so applying it again leaves them.
    apply(model_deployment(**without_volumes()), options=("--server-side",))
    assert deploy.get(api, "mdep", "digits", ns)["spec"]["replicas"] == 3  # type: ignore[index]

    api.kubectl("scale", "mdep", "digits", "-n", ns, "--replicas=1")
    deploy.eventually(lambda: deploy.get(api, "poddisruptionbudget", "digits", ns) is None, 20, "the budget is gone")
    deploy.wait_for_condition(api, "mdep", "digits", "Ready", namespace=ns)

    def alone() -> bool:
        found = deploy.get(api, "mdep", "digits", ns)
        return bool(found and found["status"]["replicas"] == 1)

    deploy.eventually(alone, 20, "the other pods are gone")


def test_a_change_rolls_out_and_is_ready_at_the_new_generation(
    api: Cluster, operator: OperatorProcess, ns: str, apply
) -> None:
    apply(model_deployment(**without_volumes()))
    deploy.wait_for_condition(api, "mdep", "digits", "Ready", namespace=ns)
    apply(model_deployment(**without_volumes(drain={"timeoutSeconds": 7})))
    ready = deploy.wait_for_condition(api, "mdep", "digits", "Ready", namespace=ns)
    assert ready["metadata"]["generation"] == ready["status"]["observedGeneration"] == 2
    assert ready["status"]["updatedReplicas"] == 1


def test_a_runtime_that_goes_takes_its_configuration_along(
    api: Cluster, operator: OperatorProcess, ns: str, apply
) -> None:
    apply(model_deployment(**without_volumes(runtime={"triton": {}})))
    deploy.wait_for_condition(api, "mdep", "digits", "Ready", namespace=ns)
    assert deploy.get(api, "configmap", "digits-triton", ns) is not None
    apply(model_deployment(**without_volumes()))
    api.kubectl("patch", "mdep", "digits", "-n", ns, "--type=merge", "-p", '{"spec":{"runtime":{"triton":null}}}')
    deploy.eventually(lambda: deploy.get(api, "configmap", "digits-triton", ns) is None, 30, "the ConfigMap is gone")
    deploy.wait_for_condition(api, "mdep", "digits", "Ready", namespace=ns)


def test_turns_are_told_as_events(api: Cluster, operator: OperatorProcess, ns: str, apply) -> None:
    apply(model_deployment(**without_volumes()))
    deploy.wait_for_condition(api, "mdep", "digits", "Ready", namespace=ns)

    def told() -> set[tuple[str, str]]:
        events = deploy.items(api, "events.events.k8s.io", ns)
        return {(e["type"], e["reason"]) for e in events if e["regarding"]["kind"] == "ModelDeployment"}

    deploy.eventually(lambda: ("Normal", "AllReplicasReady") in told(), 10, "the Event of becoming ready")
    assert "AllReplicasReady" in api.kubectl("describe", "mdep", "digits", "-n", ns)


def test_too_few_gpus_are_said_in_the_schedulers_words(api: Cluster, operator: OperatorProcess, ns: str, apply) -> None:
    # Two nodes of four: two pods of three find a place, the third does not.
    apply(model_deployment(**without_volumes(replicas=3, resources={"gpus": 3})))
    short = deploy.wait_for_condition(api, "mdep", "digits", "CapacityAvailable", "False", namespace=ns)
    said = deploy.condition(short, "CapacityAvailable")
    assert "nvidia.com/gpu" in said["message"]
    partly = deploy.eventually(
        lambda: (m := deploy.get(api, "mdep", "digits", ns)) and m["status"].get("readyReplicas") == 2 and m,
        20,
        "2 of 3",
    )
    assert deploy.condition(partly, "Ready")["status"] == "Unknown"
    api.kubectl("scale", "mdep", "digits", "-n", ns, "--replicas=2")
    deploy.wait_for_condition(api, "mdep", "digits", "Ready", namespace=ns)
    enough = deploy.wait_for_condition(api, "mdep", "digits", "CapacityAvailable", namespace=ns)
    assert enough["status"]["replicasSummary"] == "2/2"
