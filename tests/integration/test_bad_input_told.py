"""What the schema cannot see is told by the status: the operator's own words, the API server's, the scheduler's.

All cases at once, on a real API server with its real admission, controllers and scheduler. What only a running
container can show is in tests/e2e/test_bad_input.py.
"""

import json
import secrets
import time
from collections.abc import Iterator
from typing import Any

import pytest

from cluster import Cluster
from support.api_tier import Fleet
from support.bad_input import Case, Shown, check, watch
from support.operator_process import OperatorProcess
from support.resources import Manifest, model_deployment, training_job

REMOTE = {"uri": "https://models.example/digits.pt2"}
TRAINER = {"script": {"command": ["true"]}}

TOLD_WITHIN = 10
"""Seconds from the apply, as the issue asks."""

REQUESTS_PER_MINUTE = 20
"""For each bad resource that nobody mends: pods and ReplicaSets looked at every ten seconds make twelve; the others are
for applies and Events that are tried again with growing patience."""


def template(name: str, /, *, containers: list[Any] | None = None, **spec: Any) -> Manifest:
    body = {**({"containers": containers} if containers is not None else {}), **spec}
    return model_deployment(name, model=REMOTE, podTemplate={"spec": body})


def annotated(name: str, size: int) -> Manifest:
    return model_deployment(name, model=REMOTE, podTemplate={"metadata": {"annotations": {"a/b": "x" * size}}})


def labelled(name: str, size: int) -> Manifest:
    return model_deployment(name, model=REMOTE, podTemplate={"metadata": {"labels": {"a": "x" * size}}})


def trained(name: str, **spec: Any) -> Manifest:
    return training_job(name, trainer=TRAINER, data=None, output=None, **spec)


def invalid(manifest: Manifest, words: str) -> Case:
    """The operator's own words."""
    type = "Ready" if manifest["kind"] == "ModelDeployment" else "Succeeded"
    return Case(manifest, type, "False", "InvalidSpec", words, stalled=True)


def rejected(manifest: Manifest, words: str) -> Case:
    """The API server's, about a child."""
    type = "Ready" if manifest["kind"] == "ModelDeployment" else "Succeeded"
    return Case(manifest, type, "False", "Rejected", words, stalled=True)


CASES: dict[str, Case] = {
    # What the operator refuses.
    "unknown block": invalid(
        model_deployment("unknown-block", model=REMOTE, podTemplate={"template": {}}),
        "spec.podTemplate: unknown field template: write metadata and spec, as in a pod",
    ),
    "containers by name": invalid(
        template("containers-by-name", containers=[{"image": "x"}]),
        "spec.podTemplate.spec.containers: an entry lacks name",
    ),
    "text for an object": invalid(
        model_deployment("text-for-an-object", model=REMOTE, podTemplate={"spec": "big"}),
        "spec.podTemplate.spec: must be an object, as in a pod template",
    ),
    "no containers": invalid(
        model_deployment("no-containers", model=REMOTE, podTemplate={"spec": {"containers": None}}),
        "the pod must keep its containers",
    ),
    "no image": invalid(
        template("no-image", containers=[{"name": "sidecar"}]),
        "container sidecar has no image; ours are called server and trainer",
    ),
    "our variable": invalid(
        template("our-variable", containers=[{"name": "server", "env": [{"name": "MOORAGE_X", "value": "1"}]}]),
        "MOORAGE_X is the operator's to set",
    ),
    "number for text": invalid(
        template("number-for-text", containers=[{"name": "server", "env": [{"name": "A", "value": 1}]}]),
        "env A of container server: quote the value, it is text",
    ),
    "our label": invalid(
        model_deployment(
            "our-label", model=REMOTE, podTemplate={"metadata": {"labels": {"moorage.dev/model-deployment": "x"}}}
        ),
        "moorage.dev/model-deployment selects the pods and must stay our-label",
    ),
    "GPUs twice": invalid(
        model_deployment("gpus-twice", model=REMOTE, resources={"gpus": 1, "limits": {"nvidia.com/gpu": 2}}),
        "write the number of GPUs as gpus, not as nvidia.com/gpu in requests or limits",
    ),
    "training's variable": invalid(
        trained(
            "trainings-variable",
            podTemplate={"spec": {"containers": [{"name": "trainer", "env": [{"name": "PET_NNODES", "value": "2"}]}]}},
        ),
        "PET_NNODES is the operator's to set",
    ),
    # What the API server refuses of a child.
    "misspelt field": rejected(
        template("misspelt-field", containers=[{"name": "server", "imagee": "x"}]), ".spec.template.spec.containers"
    ),
    "port beyond the last": rejected(
        template("port", containers=[{"name": "server", "ports": [{"containerPort": 70000, "protocol": "TCP"}]}]),
        "must be between 1 and 65535",
    ),
    "mount without a volume": rejected(
        template("mount", containers=[{"name": "server", "volumeMounts": [{"name": "x", "mountPath": "/x"}]}]),
        '.name: Not found: "x"',
    ),
    "annotation of 1 MB": rejected(annotated("annotation", 1 << 20), "Too long: may not be more than 262144 bytes"),
    "label of 300 kB": rejected(labelled("label", 300_000), "must be no more than 63"),
    "training's misspelt field": rejected(
        trained("trainings-field", podTemplate={"spec": {"restartPolicyy": "x"}}), "field not declared in schema"
    ),
    # What admission refuses of a pod.
    "priority class": Case(
        template("priority", priorityClassName="absent"), "Ready", "False", "PodsRefused",
        "no PriorityClass with name absent was found",
    ),
    "service account": Case(
        template("account", serviceAccountName="absent"), "Ready", "False", "PodsRefused",
        'serviceaccount "absent" not found',
    ),
    "the node's network": Case(
        template("network", hostNetwork=True), "Ready", "False", "PodsRefused",
        'violates PodSecurity "restricted:latest"', namespace="restricted",
    ),
    "quota": Case(
        model_deployment("quota", model=REMOTE, resources={"requests": {"cpu": "1"}}),
        "CapacityAvailable", "False", "QuotaExceeded", "exceeded quota: small", namespace="small", failure=False,
    ),
    "training's priority class": Case(
        trained("trainings-priority", podTemplate={"spec": {"priorityClassName": "absent"}}),
        "Succeeded", "Unknown", "PodsRefused", "no PriorityClass with name absent was found",
    ),
    "training's quota": Case(
        trained("trainings-quota", resources={"requests": {"cpu": "1"}}),
        "CapacityAvailable", "False", "QuotaExceeded", "exceeded quota: small", namespace="small", failure=False,
    ),
    # What the scheduler does not find.
    "claim": Case(
        model_deployment("claim", model={"uri": "pvc://absent/digits/1"}),
        "Ready", "False", "ClaimNotFound", 'PersistentVolumeClaim "absent" not found',
    ),
    "GPUs": Case(
        model_deployment("gpus", model=REMOTE, resources={"gpus": 64}),
        "CapacityAvailable", "False", "InsufficientCapacity", "Insufficient nvidia.com/gpu", failure=False,
    ),
    "training's claim": Case(
        training_job("trainings-claim", trainer=TRAINER, data=None, output={"uri": "pvc://absent/x"}),
        "Succeeded", "Unknown", "ClaimNotFound", 'PersistentVolumeClaim "absent" not found',
    ),
    # What is not there yet, or somebody else's.
    "training to follow": Case(
        model_deployment("follows", model={"fromTrainingJobs": {"matchLabels": {"app": "absent"}}}),
        "Ready", "Unknown", "WaitingForTraining", "no TrainingJob with the labels app=absent", failure=False,
    ),
    "name taken": Case(
        model_deployment("taken", model=REMOTE), "Ready", "False", "NameConflict",
        "Service taken exists and belongs to somebody else", stalled=True,
    ),
    "scaling without Prometheus": Case(
        model_deployment(
            "scaled", model=REMOTE,
            scaling={"maxReplicas": 2, "metrics": [{"type": "Concurrency", "target": 8}]},
        ),
        "ScalingActive", "False", "PrometheusNotConfigured", "", failure=False,
    ),
    "deadline": Case(
        trained("deadline", activeDeadlineSeconds=1, podTemplate={"spec": {"nodeSelector": {"no": "where"}}}),
        "Succeeded", "False", "DeadlineExceeded", "stopped after activeDeadlineSeconds", stalled=True,
    ),
}  # fmt: skip

QUOTA = {
    "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small"},
    "spec": {"hard": {"requests.cpu": "100m"}},
}  # fmt: skip
SERVICE = {
    "apiVersion": "v1", "kind": "Service", "metadata": {"name": "taken"},
    "spec": {"selector": {"app": "another"}, "ports": [{"name": "http", "port": 80}]},
}  # fmt: skip


@pytest.fixture(scope="module")
def own_operator(_fleet: Fleet) -> Iterator[OperatorProcess]:
    """One of this file's own, whose requests are counted."""
    _fleet.clear()
    yield _fleet.start("bad-input").until("serves")
    _fleet.clear()


@pytest.fixture(scope="module")
def shown(api: Cluster, own_operator: OperatorProcess) -> Iterator[dict[str, Shown]]:
    suffix = secrets.token_hex(2)
    namespaces = {"": f"bad-input-{suffix}", "small": f"bad-input-small-{suffix}", "restricted": f"restricted-{suffix}"}
    for namespace in namespaces.values():
        api.kubectl("create", "namespace", namespace)
    api.kubectl("label", "namespace", namespaces["restricted"], "pod-security.kubernetes.io/enforce=restricted")
    for namespace, obj in ((namespaces["small"], QUOTA), (namespaces[""], SERVICE)):
        api.kubectl("apply", "-n", namespace, "-f", "-", input=json.dumps(obj))
    yield watch(api, CASES, namespaces, timeout=45)
    for namespace in namespaces.values():
        api.kubectl("delete", "namespace", namespace, "--wait=false")


@pytest.mark.parametrize("name", CASES)
def test_told(shown: dict[str, Shown], name: str) -> None:
    check(CASES[name], shown[name])


def test_each_is_told_soon(shown: dict[str, Shown]) -> None:
    late = {name: round(one.seconds, 1) for name, one in shown.items() if one.told and one.seconds > TOLD_WITHIN}
    assert late == {}


def test_nobody_is_busy_with_what_stays_as_it_is(shown: dict[str, Shown], own_operator: OperatorProcess) -> None:
    def requests() -> float:
        return own_operator.metric("moorage_operator_api_requests_total") - own_operator.metric(
            "moorage_operator_api_requests_total", resource="leases"
        )

    before, seconds = requests(), 20
    time.sleep(seconds)
    per_minute = (requests() - before) * 60 / seconds / len(CASES)
    print(f"{per_minute:.1f} requests a minute for each of {len(CASES)} bad resources")
    assert per_minute <= REQUESTS_PER_MINUTE
    assert own_operator.metric("moorage_operator_queue_depth") < len(CASES)


def test_the_operator_has_not_failed(shown: dict[str, Shown], own_operator: OperatorProcess) -> None:
    assert own_operator.running
    assert [line for line in own_operator.lines() if line.get("event") == "reconcile broke" or "raw" in line] == []
