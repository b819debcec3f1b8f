"""Each way in which a pod can be unready, and whose words tell of it."""

from typing import Any

import pytest

from moorage.status.pods import explain, findings
from unit.status.objects import crashed, pod, unschedulable, waiting

CASES: dict[str, tuple[dict[str, Any], tuple[str, str, str]]] = {
    "no GPU": (
        unschedulable(
            "0/2 nodes are available: 2 Insufficient nvidia.com/gpu. no new claims to deallocate, preemption: none"
        ),
        ("Capacity", "InsufficientCapacity", "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."),
    ),
    "no claim": (
        unschedulable('0/2 nodes are available: persistentvolumeclaim "models" not found. preemption: none'),
        ("Environment", "ClaimNotFound", 'PersistentVolumeClaim "models" not found'),
    ),
    "claim without a volume": (
        unschedulable("0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims."),
        ("Environment", "ClaimNotBound", "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims."),
    ),
    "image, first try": (
        waiting("ErrImagePull", 'rpc error: code = NotFound desc = "x:1" not found'),
        ("Environment", "ImagePullFailed", 'rpc error: code = NotFound desc = "x:1" not found'),
    ),
    "image, backing off": (
        waiting(
            "ImagePullBackOff",
            'Back-off pulling image "x:1": ErrImagePull: rpc error: code = NotFound desc = "x:1" not found',
        ),
        ("Environment", "ImagePullFailed", 'rpc error: code = NotFound desc = "x:1" not found'),
    ),
    "image's name": (
        waiting("InvalidImageName", 'Failed to apply default image tag "X:": couldn\'t parse'),
        ("Environment", "ImagePullFailed", 'Failed to apply default image tag "X:": couldn\'t parse'),
    ),
    "secret": (
        waiting("CreateContainerConfigError", 'secret "store" not found', container="fetch"),
        ("Environment", "SecretNotFound", 'secret "store" not found'),
    ),
    "key of a secret": (
        waiting("CreateContainerConfigError", "couldn't find key token in Secret models/own"),
        ("Environment", "SecretNotFound", "couldn't find key token in Secret models/own"),
    ),
    "config map": (
        waiting("CreateContainerConfigError", 'configmap "c" not found'),
        ("Environment", "ConfigMapNotFound", 'configmap "c" not found'),
    ),
    "root": (
        waiting("CreateContainerConfigError", "container has runAsNonRoot and image will run as root"),
        ("Environment", "ContainerConfigInvalid", "container has runAsNonRoot and image will run as root"),
    ),
    "command": (
        waiting("RunContainerError", 'exec: "server": executable file not found in $PATH'),
        ("Environment", "StartFailed", 'exec: "server": executable file not found in $PATH'),
    ),
    "own words": (
        crashed(65, {"reason": "ModelCorrupt", "message": "model.pt2 is no archive", "time": "2026-01-01T00:00:00Z"}),
        ("Program", "ModelCorrupt", "model.pt2 is no archive"),
    ),
    "own words of an init container": (
        crashed(66, {"reason": "ModelNotFound", "message": "s3://m/x does not exist"}, container="fetch", init=True),
        ("Program", "ModelNotFound", "s3://m/x does not exist"),
    ),
    "out of memory": (
        crashed(137, reason="OOMKilled"),
        ("Program", "OutOfMemory", "killed when it needed more memory than its limit: raise limits.memory"),
    ),
    "out of memory before it began": (
        crashed(128, "container init was OOM-killed (memory limit too low?)", reason="StartError"),
        (
            "Program",
            "OutOfMemory",
            "killed when it needed more memory than its limit: raise limits.memory",
        ),
    ),
    "out of memory in an init container": (
        crashed(137, reason="OOMKilled", container="fetch", init=True),
        ("Program", "OutOfMemory", "killed when it needed more memory than its limit: raise limits.memory"),
    ),
    "last words": (
        crashed(1, "line 1\nline 2\nTraceback\nline 4\nline 5\nValueError: no"),
        ("Program", "CrashLoop", "ended with exit code 1: line 2\nTraceback\nline 4\nline 5\nValueError: no"),
    ),
    "silence": (crashed(139), ("Program", "CrashLoop", "ended with exit code 139")),
    "a server that just ends": (crashed(0), ("Program", "CrashLoop", "ended with exit code 0")),
    "a reason that is none": (
        crashed(1, {"reason": "no such thing!", "message": "x"}),
        ("Program", "nosuchthing", "x"),
    ),
    "JSON of another kind": (crashed(1, '["a"]'), ("Program", "CrashLoop", 'ended with exit code 1: ["a"]')),
    "evicted": (
        pod(phase="Failed", reason="Evicted", message="The node was low on resource: memory.", containerStatuses=[]),
        ("Program", "Evicted", "The node was low on resource: memory."),
    ),
    "loading": (pod(), ("Waiting", "Starting", "server is starting")),
    "fetching": (
        pod(initContainerStatuses=[{"name": "fetch", "ready": False, "state": {"running": {}}}], containerStatuses=[]),
        ("Waiting", "FetchingModel", "the model is being fetched"),
    ),
    "decrypting": (
        pod(
            initContainerStatuses=[{"name": "decrypt", "ready": False, "state": {"running": {}}}], containerStatuses=[]
        ),
        ("Waiting", "DecryptingModel", "the model is being decrypted"),
    ),
    "being made": (
        pod(
            containerStatuses=[
                {"name": "server", "ready": False, "state": {"waiting": {"reason": "ContainerCreating"}}}
            ],
            spec={
                "volumes": [
                    {"configMap": {"name": "data"}},
                    {"persistentVolumeClaim": {"claimName": "m"}},
                    {"emptyDir": {}},
                ]
            },
        ),
        (
            "Waiting",
            "ContainerCreating",
            "the kubelet prepares image and volumes; these must exist: ConfigMap data, PersistentVolumeClaim m",
        ),
    ),
    "new": (pod(phase="Pending", conditions=[]), ("Waiting", "Scheduling", "waiting for the scheduler")),
}


@pytest.mark.parametrize("case", CASES)
def test_explained(case: str) -> None:
    seen, expected = CASES[case]
    finding = explain(seen)
    assert finding is not None
    assert (finding.kind, finding.reason, finding.message) == expected


def test_nothing_to_say() -> None:
    leaving = crashed()
    leaving["metadata"]["deletionTimestamp"] = "x"
    assert findings([pod(ready=True), leaving]) == []


def test_a_crash_is_told_also_while_it_is_tried_again() -> None:
    again = crashed(1, "no")
    again["status"]["containerStatuses"][0]["state"] = {"running": {}}
    finding = explain(again)
    assert finding is not None and finding.reason == "CrashLoop"


def test_but_not_when_it_has_started_since() -> None:
    again = crashed(1, "no")
    again["status"]["containerStatuses"][0] |= {"state": {"running": {}}, "started": True}
    finding = explain(again)
    assert finding is not None and finding.kind == "Waiting"


def test_an_init_container_is_not_through_because_it_runs_again() -> None:
    again = crashed(65, {"reason": "FormatMismatch", "message": "no"}, container="repository", init=True)
    again["status"]["initContainerStatuses"][0] |= {"state": {"running": {}}, "started": True}
    finding = explain(again)
    assert finding is not None and finding.reason == "FormatMismatch"


@pytest.mark.parametrize("ready", [True, False])
def test_but_a_sidecar_is(ready: bool) -> None:
    again = crashed(1, "no", container="proxy", init=True)
    again["status"]["initContainerStatuses"][0] |= {"state": {"running": {}}, "started": True, "ready": ready}
    again["status"]["conditions"].append({"type": "Initialized", "status": "True"})
    finding = explain(again)
    assert finding is not None and finding.kind == "Waiting"


def test_a_time_that_the_api_server_would_refuse_is_not_taken() -> None:
    finding = explain(crashed(1, {"reason": "X", "message": "m", "time": "yesterday"}))
    assert finding is not None and finding.time == "2026-01-01T12:00:00Z"


def test_one_finding_for_each_pod_in_the_order_of_names() -> None:
    assert [f.pod for f in findings([crashed(name="b"), crashed(name="a")])] == ["a", "b"]
