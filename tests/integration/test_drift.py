"""What somebody changes or removes of a child comes back."""

import json
import time
from collections.abc import Callable
from typing import Any

from cluster import Cluster
from moorage.desired.digest import covers
from support import deploy
from support.operator_process import OperatorProcess
from support.resources import model_deployment, training_job, without_volumes

OURS = "app.kubernetes.io/managed-by"


SERVING = model_deployment(**without_volumes(runtime={"triton": {}}, replicas=2))
# Its workers find no node: a training that is over makes nothing any more.
TRAINING = training_job(podTemplate={"spec": {"nodeSelector": {"kubernetes.io/hostname": "nowhere"}}})

# What somebody else might make of each kind of child, as a merge patch.
EDITS: list[tuple[str, str, dict[str, Any]]] = [
    ("deployment", "digits", {"spec": {"replicas": 5, "template": {"metadata": {"labels": {OURS: "me"}}}}}),
    ("service", "digits", {"spec": {"selector": {"app": "shop"}}}),
    ("poddisruptionbudget", "digits", {"spec": {"maxUnavailable": 0}}),
    ("configmap", "digits-triton", {"data": {"config.pbtxt": "name: 'shop'"}}),
    ("service", "digits-train", {"spec": {"publishNotReadyAddresses": False}}),
    ("job", "digits-train", {"spec": {"backoffLimit": 99}}),
]


def seconds_until(probe: Callable[[], Any], what: str) -> float:
    began = time.monotonic()
    deploy.eventually(probe, 40, what, every=0.05)
    return time.monotonic() - began


def test_a_child_of_any_kind_is_back_at_once(
    api: Cluster, operator: OperatorProcess, ns: str, apply, record_property
) -> None:
    apply(SERVING, TRAINING)
    deploy.wait_for_condition(api, "mdep", "digits", "Ready", namespace=ns)
    taken: dict[str, float] = {}
    for kind, name, edit in EDITS:
        before = deploy.eventually(lambda kind=kind, name=name: deploy.get(api, kind, name, ns), 40, f"{kind} {name}")

        def mended(kind: str = kind, name: str = name, before: dict[str, Any] = before) -> bool:
            now = deploy.get(api, kind, name, ns)
            return now is not None and covers(now["spec"] if "spec" in now else now["data"], wish(before))

        api.kubectl("patch", kind, name, "-n", ns, "--type=merge", "-p", json.dumps(edit))
        taken[f"{kind}/{name} edited"] = seconds_until(mended, f"{kind} {name} is mended")

        def anew(kind: str = kind, name: str = name, before: dict[str, Any] = before) -> bool:
            now = deploy.get(api, kind, name, ns)
            return now is not None and now["metadata"]["uid"] != before["metadata"]["uid"]

        api.kubectl("delete", kind, name, "-n", ns, "--wait=false")
        taken[f"{kind}/{name} deleted"] = seconds_until(anew, f"a new {kind} {name}")
    for what, seconds in taken.items():
        print(f"{what}: back after {seconds:.2f} s")
        record_property(what, round(seconds, 2))
    # Asked is 2 s, and measured where nothing else runs; a machine that does other things besides gets some more.
    assert max(taken.values()) < 20
    deploy.wait_for_condition(api, "mdep", "digits", "Ready", namespace=ns)


def wish(obj: dict[str, Any]) -> dict[str, Any]:
    """What somebody wants of it, without what the API server and others add."""
    return {
        key: value for key, value in (obj.get("spec") or obj["data"]).items() if key not in ("clusterIP", "clusterIPs")
    }


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
