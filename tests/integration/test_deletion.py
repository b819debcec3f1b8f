"""Deleting removes all that was made; nothing is made again on the way out, and the name is free at once."""

import json
import time
from datetime import UTC, datetime

from cluster import Cluster
from support import audit, deploy
from support.operator_process import OperatorProcess
from support.resources import model_deployment, training_job, without_volumes

OURS = "deployments,services,poddisruptionbudgets,configmaps,jobs,pods"
SELECTOR = "app.kubernetes.io/managed-by=moorage"


def nothing_left(api: Cluster, ns: str) -> None:
    deploy.eventually(lambda: not deploy.items(api, OURS, ns, SELECTOR), 40, "all children are gone")


def applies(operator: OperatorProcess, ns: str) -> int:
    return sum(1 for line in operator.lines() if line.get("event") == "applied" and line.get("namespace") == ns)


def test_deleting_removes_all_that_was_made(api: Cluster, operator: OperatorProcess, ns: str, apply) -> None:
    apply(model_deployment(**without_volumes(replicas=2)), training_job("train"))
    deploy.wait_for_condition(api, "mdep", "digits", "Ready", namespace=ns)
    deploy.eventually(lambda: deploy.get(api, "job", "train-train", ns), 20, "the Job")
    api.kubectl("delete", "mdep/digits", "tjob/train", "-n", ns)
    nothing_left(api, ns)


def test_a_foreground_deletion_is_no_fight(api: Cluster, operator: OperatorProcess, ns: str, apply) -> None:
    apply(model_deployment(**without_volumes(replicas=2)))
    deploy.wait_for_condition(api, "mdep", "digits", "Ready", namespace=ns)
    made = applies(operator, ns)
    api.kubectl("delete", "mdep/digits", "-n", ns, "--cascade=foreground", "--timeout=40s")
    nothing_left(api, ns)
    time.sleep(1)
    assert applies(operator, ns) == made, "children were made again while they were being deleted"


def test_the_same_name_can_be_used_again_at_once(api: Cluster, operator: OperatorProcess, ns: str, apply) -> None:
    apply(model_deployment(**without_volumes(replicas=2)))
    first = deploy.wait_for_condition(api, "mdep", "digits", "Ready", namespace=ns)
    api.kubectl("delete", "mdep/digits", "-n", ns)
    apply(model_deployment(**without_volumes(replicas=1)))
    second = deploy.wait_for_condition(api, "mdep", "digits", "Ready", namespace=ns)
    assert first["metadata"]["uid"] != second["metadata"]["uid"]
    deployment = deploy.get(api, "deployment", "digits", ns)
    assert deployment is not None
    assert deployment["metadata"]["ownerReferences"][0]["uid"] == second["metadata"]["uid"]
    time.sleep(2)  # what the garbage collector still had in its hands must not take the new children
    assert deploy.get(api, "deployment", "digits", ns) is not None


def test_orphans_are_left_alone_and_taken_in_again(api: Cluster, operator: OperatorProcess, ns: str, apply) -> None:
    apply(model_deployment(**without_volumes()))
    deploy.wait_for_condition(api, "mdep", "digits", "Ready", namespace=ns)
    before = deploy.get(api, "deployment", "digits", ns)
    api.kubectl("delete", "mdep/digits", "-n", ns, "--cascade=orphan")
    time.sleep(1)
    apply(model_deployment(**without_volumes()))
    deploy.wait_for_condition(api, "mdep", "digits", "Ready", namespace=ns)
    after = deploy.get(api, "deployment", "digits", ns)
    assert before is not None and after is not None
    assert before["metadata"]["uid"] == after["metadata"]["uid"], "serving went on through it all"


def test_a_namespace_can_go_with_all_that_is_in_it(api: Cluster, operator: OperatorProcess, ns: str, apply) -> None:
    space = f"{ns}-inner"
    api.kubectl("create", "namespace", space)
    for name in ("a", "b", "c"):
        api.kubectl("apply", "-n", space, "-f", "-", input=_json(model_deployment(name, **without_volumes())))
    deploy.wait_for_condition(api, "mdep", "c", "Ready", namespace=space)
    api.kubectl("delete", "namespace", space, "--timeout=60s", timeout=70)
    refused = [line for line in operator.lines() if line.get("namespace") == space and line.get("level") == "error"]
    assert refused == []


def test_a_namespace_that_takes_its_time_to_go_is_left_in_peace(
    api: Cluster, operator: OperatorProcess, ns: str, apply
) -> None:
    """Its children are deleted one by one, and nothing can be made there any more."""
    space = f"{ns}-inner"
    api.kubectl("create", "namespace", space)
    held = {"metadata": {"name": "held", "namespace": space, "finalizers": ["example.com/later"]}}
    api.kubectl("apply", "-f", "-", input=_json({"apiVersion": "v1", "kind": "ConfigMap", **held}))
    # The resource itself is held as well: it is there, without its children, for as long as the namespace is.
    resource = model_deployment("held", **without_volumes())
    resource["metadata"]["finalizers"] = ["example.com/later"]
    api.kubectl("apply", "-n", space, "-f", "-", input=_json(resource))
    deploy.wait_for_condition(api, "mdep", "held", "Ready", namespace=space)
    try:
        began = datetime.now(UTC)
        api.kubectl("delete", "namespace", space, "--wait=false")
        deploy.eventually(lambda: not deploy.items(api, "deploy,svc", space), 30, "its children are gone")
        time.sleep(3)
        asked = [audit.told(event) for event in audit.writes(api, since=began, namespace=space)]
        assert len(asked) <= 5, "a namespace on its way out is not asked again and again"
    finally:
        for kind in ("configmap", "mdep"):
            patch = '{"metadata":{"finalizers":null}}'
            api.kubectl("patch", kind, "held", "-n", space, "--type=merge", "-p", patch)
    apply(model_deployment(**without_volumes()))
    deploy.wait_for_condition(api, "mdep", "digits", "Ready", namespace=ns)


def _json(manifest: dict[str, object]) -> str:

    return json.dumps(manifest)
