"""Whether a namespace holds exactly what its resources ask for: nothing missing, nothing twice, nothing left over."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from typing import Any

from cluster import Cluster
from moorage.api.facts import ResolvedModel
from moorage.api.modeldeployment import ModelDeployment
from moorage.api.trainingjob import TrainingJob
from moorage.desired import serving, training
from moorage.desired.defaults import Defaults
from moorage.desired.digest import covers
from moorage.desired.model import resolve
from moorage.settings import Settings
from support import deploy
from support.churn import Name
from support.operator_process import TORCH_IMAGE, TRITON_IMAGE

Object = dict[str, Any]
OWNERS = "modeldeployments,trainingjobs"
CHILDREN = "deployments,services,poddisruptionbudgets,configmaps,jobs"
OURS = "app.kubernetes.io/managed-by=moorage"


def differences(api: Cluster, ns: str, wanted: Collection[Name]) -> list[str]:
    """In words; empty when all is as it should be. `wanted` are the resources that a user would expect."""
    owners = deploy.items(api, OWNERS, ns)
    children = deploy.items(api, CHILDREN, ns, OURS)
    return [
        *_resources(owners, wanted),
        *_children(owners, children),
        *_pods(children, deploy.items(api, "replicasets", ns, OURS), deploy.items(api, "pods", ns, OURS)),
    ]


def wait(api: Cluster, ns: str, wanted: Collection[Name], timeout: float) -> float:
    """Until nothing differs; the seconds it took."""
    began = time.monotonic()
    while left := differences(api, ns, wanted):
        if time.monotonic() - began > timeout:
            raise AssertionError(f"after {timeout:.0f} s:\n" + "\n".join(left))
        time.sleep(0.5)
    return time.monotonic() - began


def _resources(owners: list[Object], wanted: Collection[Name]) -> Iterator[str]:
    there = {_name(owner) for owner in owners}
    yield from (f"{kind} {name} is not there" for kind, name in sorted(set(wanted) - there))
    yield from (f"{kind} {name} should be gone" for kind, name in sorted(there - set(wanted)))
    for owner in owners:
        good = deploy.condition(owner, "Ready" if owner["kind"] == "ModelDeployment" else "Succeeded")
        if not deploy.current(owner) or (good["status"], good.get("observedGeneration")) != (
            "True",
            _generation(owner),
        ):
            yield f"{_title(owner)} is not {good['type']}: {good['reason']} {good['message']}"


def _children(owners: list[Object], children: list[Object]) -> Iterator[str]:
    defaults = Settings(torch_image=TORCH_IMAGE, triton_image=TRITON_IMAGE).defaults(pod_monitors=False)
    desired = {_name(child): child for owner in owners for child in _desired(owner, defaults)}
    live = {_name(child): child for child in children}
    uids = {owner["metadata"]["uid"] for owner in owners}
    for name, child in live.items():
        if not uids & {ref["uid"] for ref in child["metadata"].get("ownerReferences", []) if ref.get("controller")}:
            yield f"{_title(child)} has no living owner"
        elif name not in desired:
            yield f"{_title(child)} is one too many"
    for name, child in desired.items():
        if name not in live:
            yield f"{_title(child)} is missing"
        elif not covers(live[name], child):
            yield f"{_title(child)} is not what it should be"


def _desired(owner: Object, defaults: Defaults) -> list[Object]:
    if owner["kind"] == "TrainingJob":
        return training.children(TrainingJob.parse(owner, strict=True), defaults)
    md = ModelDeployment.parse(owner, strict=True)
    model = resolve(md, [])
    assert isinstance(model, ResolvedModel)
    return serving.children(md, model, _replicas(md), defaults)


def _replicas(md: ModelDeployment) -> int:
    """One that scales has no number of its own: whatever it says that it wants, within its bounds."""
    if md.spec.scaling is None:
        return md.replicas
    said = int(md.status.get("desiredReplicas", -1))
    return min(max(said, md.spec.scaling.min_replicas), md.spec.scaling.max_replicas)


def _pods(children: list[Object], replica_sets: list[Object], pods: list[Object]) -> Iterator[str]:
    """As many as asked for, all of the newest revision; none of a Deployment that is gone."""
    of_set = {each["metadata"]["uid"]: _controller(each) for each in replica_sets}
    count: dict[str | None, int] = {}
    revisions: dict[str | None, set[str | None]] = {}
    for pod in pods:
        revision = _controller(pod)
        if revision in of_set and "deletionTimestamp" not in pod["metadata"]:
            deployment = of_set[revision]
            count[deployment] = count.get(deployment, 0) + 1
            revisions.setdefault(deployment, set()).add(revision)
    for child in children:
        if child["kind"] == "Deployment":
            uid, asked = child["metadata"]["uid"], child["spec"]["replicas"]
            if count.pop(uid, 0) != asked or len(revisions.get(uid, set())) > 1:
                yield f"{_title(child)} has not {asked} pods of one revision"
    jobs = {each["metadata"]["uid"] for each in children if each["kind"] == "Job"}
    for pod in pods:
        if _controller(pod) not in of_set and _controller(pod) not in jobs:
            yield f"{_title(pod)} belongs to nobody"
    yield from (f"{number} pods of a Deployment that is gone" for number in count.values())


def _controller(obj: Object) -> str | None:
    return next((ref["uid"] for ref in obj["metadata"].get("ownerReferences", []) if ref.get("controller")), None)


def _name(obj: Object) -> Name:
    return obj["kind"], obj["metadata"]["name"]


def _title(obj: Object) -> str:
    return " ".join(_name(obj))


def _generation(obj: Object) -> int:
    return int(obj["metadata"]["generation"])
