"""An operator that finds the children of the last release replaces no pod; its images alone roll those that serve.

The children are the recorded ones of tests/golden/recorded, applied in the former operator's name under owners of
their own.
"""

import json
import time
from typing import Any

import pytest

from cluster import Cluster
from moorage.api.names import FIXED_DIGEST
from moorage.desired import training
from moorage.desired.digest import digest, stamp
from moorage.kube.client import FIELD_MANAGER
from support import cases, deploy, recorded

Manifest = dict[str, Any]
SETTINGS = {
    "torch_image": cases.DEFAULTS.torch_image,
    "triton_image": cases.DEFAULTS.triton_image,
    "image_pull_policy": cases.DEFAULTS.image_pull_policy,
    "image_pull_secrets": ",".join(cases.DEFAULTS.image_pull_secrets),
}
# No Prometheus operator is here, and none of its objects has pods.
FOREIGN = {"PodMonitor"}


def apply(api: Cluster, manager: str, objects: list[Manifest]) -> None:
    together = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    api.kubectl("apply", "--server-side", f"--field-manager={manager}", "-f", "-", input=together, timeout=120)


def adopt(children: list[Manifest], namespace: str, uids: dict[str, str]) -> list[Manifest]:
    """As the former operator would have written them here: in this namespace, of these owners."""
    text = json.dumps(children).replace(recorded.NAMESPACE, namespace)
    for old, new in uids.items():
        text = text.replace(old, new)
    found = json.loads(text)
    for child in found:
        if child["kind"] == "Job":
            fixed = {key: child["spec"].get(key) for key in training._FIXED}
            child["metadata"]["annotations"][FIXED_DIGEST] = digest(fixed)
    return [stamp(child) for child in found]


def succeed(api: Cluster, job: Manifest) -> None:
    """What a ModelDeployment beside it serves. A status that a release wrote, cut down to what is read again."""
    now = "2026-01-02T00:00:00Z"
    condition = {"type": "Succeeded", "status": "True", "reason": "Succeeded", "message": "", "lastTransitionTime": now}
    recorded_status = job.get("status") or {"output": {"uri": job["spec"]["output"]["uri"]}}
    status = {"completionTime": now, **recorded_status, "conditions": [condition]}
    where = ("-n", job["metadata"]["namespace"], job["metadata"]["name"])
    patch = json.dumps({"status": status})
    api.kubectl("patch", "tjob", *where, "--subresource=status", "--type=merge", "-p", patch)


def install(api: Cluster, prefix: str) -> list[str]:
    """Every case in a namespace of its own; the namespaces."""
    loaded = {f"{prefix}-{name}": recorded.load(name) for name in recorded.names()}
    spaces = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in loaded]
    apply(api, "user", spaces)
    owners = [
        {
            **{key: value for key, value in owner.items() if key != "status"},
            "metadata": {
                key: namespace if key == "namespace" else value
                for key, value in owner["metadata"].items()
                if key != "uid"
            },
        }
        for namespace, (found, _) in loaded.items()
        for owner in found
    ]
    apply(api, "user", owners)
    made = json.loads(api.kubectl("get", "mdep,tjob", "-A", "-o", "json"))["items"]
    uid = {(o["kind"], o["metadata"]["namespace"], o["metadata"]["name"]): o["metadata"]["uid"] for o in made}
    children: list[Manifest] = []
    for namespace, (found, theirs) in loaded.items():
        uids = {o["metadata"]["uid"]: uid[o["kind"], namespace, o["metadata"]["name"]] for o in found}
        children += adopt([child for child in theirs if child["kind"] not in FOREIGN], namespace, uids)
        if any("fromTrainingJobs" in o["spec"].get("model", {}) for o in found):
            for owner in found:
                if owner["kind"] == "TrainingJob":
                    succeed(api, {**owner, "metadata": {**owner["metadata"], "namespace": namespace}})
    apply(api, FIELD_MANAGER, children)
    return list(loaded)


def of(api: Cluster, kinds: str, namespaces: list[str]) -> list[Manifest]:
    found = json.loads(api.kubectl("get", kinds, "-A", "-o", "json"))["items"]
    return [obj for obj in found if obj["metadata"]["namespace"] in namespaces]


def state(api: Cluster, namespaces: list[str]) -> dict[tuple[str, ...], tuple[str, Any]]:
    """Who each Deployment and Job is, and how often the wish in a Deployment has changed. A Job's pods cannot change,
    and one that has ended is given its time to live."""
    found = {}
    for obj in of(api, "deployments,jobs", namespaces):
        kind, meta = obj["kind"], obj["metadata"]
        turns = meta["generation"] if kind == "Deployment" else None
        found[kind, meta["namespace"], meta["name"]] = (meta["uid"], turns)
    return found


def looked_at(api: Cluster, namespaces: list[str]) -> bool:
    return all(deploy.current(owner) for owner in of(api, "mdep,tjob", namespaces))


@pytest.mark.timeout(240)
def test_nothing_that_runs_is_replaced(api: Cluster, fleet: Any) -> None:
    api.kubectl("delete", "namespaces", "-l", "moorage.dev/test=upgrade", "--wait=false")
    namespaces = install(api, f"up{time.time_ns() % 10**6}")
    try:
        api.kubectl("label", "namespaces", *namespaces, "moorage.dev/test=upgrade")
        deploy.eventually(
            lambda: all(d["status"].get("observedGeneration") for d in of(api, "deployments", namespaces)),
            30,
            "the former operator's Deployments are under way",
        )
        before = state(api, namespaces)
        assert {kind for kind, _, _ in before} == {"Deployment", "Job"}

        operator = fleet.start("new", **SETTINGS).until("serves")
        deploy.eventually(lambda: looked_at(api, namespaces), 60, "it has looked at everything")
        time.sleep(3)
        assert state(api, namespaces) == before
        revisions = [rs["metadata"]["ownerReferences"][0]["uid"] for rs in of(api, "replicasets", namespaces)]
        assert len(revisions) == len(set(revisions)), "a Deployment has begun a second revision"
        assert operator.stop() == 0

        # What must be seen is seen: another image of the server rolls what serves, and never a training.
        fleet.start("newer", **{**SETTINGS, "torch_image": "registry.example.com/moorage/torch:2"}).until("serves")

        def changed() -> set[tuple[str, ...]]:
            return {key for key, value in state(api, namespaces).items() if before.get(key) != value}

        torch = [n for n in namespaces if n.endswith(("golden-torch-pvc", "example-torch"))]
        deploy.eventually(lambda: set(torch) <= {key[1] for key in changed()}, 60, "the new image rolls what serves")
        assert {kind for kind, _, _ in changed()} == {"Deployment"}
        assert not any(key[1].endswith("golden-container-without-model") for key in changed())
    finally:
        api.kubectl("delete", "namespaces", *namespaces, "--wait=false")
