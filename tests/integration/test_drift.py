"""What somebody changes or removes of a child comes back."""

import json

from cluster import Cluster
from support import deploy
from support.operator_process import OperatorProcess
from support.resources import model_deployment, without_volumes


def test_a_child_that_was_deleted_comes_back(api: Cluster, operator: OperatorProcess, ns: str, apply) -> None:
    apply(model_deployment(**without_volumes()))
    deploy.wait_for_condition(api, "mdep", "digits", "Ready", namespace=ns)
    for kind in ("deployment", "service"):
        before = deploy.get(api, kind, "digits", ns)
        assert before is not None
        api.kubectl("delete", kind, "digits", "-n", ns)
        deploy.eventually(
            lambda kind=kind, before=before: (
                (now := deploy.get(api, kind, "digits", ns)) and now["metadata"]["uid"] != before["metadata"]["uid"]
            ),
            20,
            f"a new {kind}",
        )
    deploy.wait_for_condition(api, "mdep", "digits", "Ready", namespace=ns)


def test_edits_by_others_are_taken_back_and_additions_stay(
    api: Cluster, operator: OperatorProcess, ns: str, apply
) -> None:
    apply(model_deployment(**without_volumes()))
    deploy.wait_for_condition(api, "mdep", "digits", "Ready", namespace=ns)
    before = deploy.get(api, "deployment", "digits", ns)
    assert before is not None
    image = before["spec"]["template"]["spec"]["containers"][0]["image"]
    container = before["spec"]["template"]["spec"]["containers"][0]["name"]
    api.kubectl("set", "image", "deployment/digits", f"{container}=somebody/elses:1", "-n", ns)
    api.kubectl("scale", "deployment/digits", "-n", ns, "--replicas=4")
    api.kubectl("label", "deployment/digits", "-n", ns, "team=vision")

    def mended() -> bool:
        now = deploy.get(api, "deployment", "digits", ns)
        assert now is not None
        found = now["spec"]["template"]["spec"]["containers"][0]["image"]
        return (found, now["spec"]["replicas"]) == (image, 1) and now["metadata"]["labels"]["team"] == "vision"

    deploy.eventually(mended, 20, "image and replicas are ours again, the label of others stays")


def test_a_child_without_its_label_or_its_owner_gets_them_back(
    api: Cluster, operator: OperatorProcess, ns: str, apply
) -> None:
    apply(model_deployment(**without_volumes()))
    deploy.wait_for_condition(api, "mdep", "digits", "Ready", namespace=ns)
    api.kubectl("label", "service/digits", "-n", ns, "app.kubernetes.io/managed-by-")
    api.kubectl(
        "patch",
        "deployment/digits",
        "-n",
        ns,
        "--type=merge",
        "-p",
        json.dumps({"metadata": {"ownerReferences": None}}),
    )

    def mended() -> bool:
        service, deployment = deploy.get(api, "service", "digits", ns), deploy.get(api, "deployment", "digits", ns)
        assert service is not None and deployment is not None
        return "app.kubernetes.io/managed-by" in service["metadata"]["labels"] and bool(
            deployment["metadata"].get("ownerReferences")
        )

    deploy.eventually(mended, 20, "label and owner are back")
