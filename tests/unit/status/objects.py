"""Small builders of what Kubernetes would show: a Deployment with its ReplicaSets and pods, a Job with its pods."""

import copy
import json
from typing import Any

Object = dict[str, Any]

NOW = "2026-01-01T12:00:00Z"
LATER = "2026-01-01T12:05:00Z"


def template(image: str = "a") -> Object:
    return {"metadata": {"labels": {"moorage.dev/model-deployment": "d"}}, "spec": {"containers": [{"image": image}]}}


def deployment(
    wanted: int = 1, *, ready: int | None = None, image: str = "a", generation: int = 1, **status: Any
) -> Object:
    count = wanted if ready is None else ready
    found = {
        "observedGeneration": generation,
        "replicas": wanted,
        "updatedReplicas": wanted,
        "readyReplicas": count,
        "availableReplicas": count,
        **status,
    }
    return {
        "metadata": {"name": "d", "uid": "deployment", "generation": generation},
        "spec": {"replicas": wanted, "template": template(image)},
        "status": found,
    }


def replica_set(image: str = "a", *, replicas: int = 1, ready: int = 0) -> Object:
    made = copy.deepcopy(template(image))
    made["metadata"]["labels"]["pod-template-hash"] = image
    return {
        "metadata": {"name": f"d-{image}", "uid": f"rs-{image}", "ownerReferences": [_owner("deployment")]},
        "spec": {"template": made},
        "status": {"replicas": replicas, "readyReplicas": ready},
    }


def pod(name: str = "d-1", *, image: str = "a", ready: bool = False, phase: str = "Running", **more: Any) -> Object:
    status: Object = {
        "phase": phase,
        "conditions": [
            {"type": "PodScheduled", "status": "True"},
            {"type": "Ready", "status": "True" if ready else "False"},
        ],
        "containerStatuses": [{"name": "server", "ready": ready, "state": {"running": {}}, "restartCount": 0}],
    }
    return {
        "metadata": {
            "name": name,
            "labels": {"pod-template-hash": image},
            "ownerReferences": [_owner(f"rs-{image}")],
        },
        "spec": more.pop("spec", {}),
        "status": {**status, **more},
    }


def unschedulable(message: str, name: str = "d-1", image: str = "a") -> Object:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return pod(name, image=image, phase="Pending", conditions=[condition], containerStatuses=[])


def waiting(reason: str, message: str = "", *, container: str = "server", name: str = "d-1") -> Object:
    state = {"waiting": {"reason": reason, "message": message}}
    return pod(name, phase="Pending", containerStatuses=[{"name": container, "ready": False, "state": state}])


def crashed(
    code: int = 1,
    message: str | Object = "",
    *,
    name: str = "d-1",
    image: str = "a",
    container: str = "server",
    restarts: int = 1,
    reason: str = "Error",
    init: bool = False,
    at: str = NOW,
) -> Object:
    """A container that ended and waits to be started again."""
    text = json.dumps(message) if isinstance(message, dict) else message
    found = {
        "name": container,
        "ready": False,
        "restartCount": restarts,
        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting failed container"}},
        "lastState": {"terminated": {"exitCode": code, "reason": reason, "message": text, "finishedAt": at}},
    }
    statuses = {"initContainerStatuses": [found], "containerStatuses": []} if init else {"containerStatuses": [found]}
    return pod(name, image=image, **statuses)


def worker(
    index: int = 0, *, phase: str = "Running", code: int | None = None, message: str | Object = "", at: str = NOW
) -> Object:
    """A pod of a training's Job."""
    text = json.dumps(message) if isinstance(message, dict) else message
    state: Object = {"running": {}}
    if code is not None:
        state = {"terminated": {"exitCode": code, "message": text, "finishedAt": at}}
    return {
        "metadata": {"name": f"t-train-{index}-abcde"},
        "spec": {"restartPolicy": "Never"},
        "status": {
            "phase": phase,
            "conditions": [
                {"type": "PodScheduled", "status": "True"},
                {"type": "Ready", "status": "True" if phase == "Running" else "False"},
            ],
            "containerStatuses": [{"name": "trainer", "ready": phase == "Running", "state": state, "restartCount": 0}],
        },
    }


def job(end: str | None = None, *, reason: str = "", message: str = "", start: str = "2026-01-01T11:00:00Z") -> Object:
    status: Object = {"startTime": start}
    if end:
        condition = {"type": end, "status": "True", "reason": reason, "message": message, "lastTransitionTime": NOW}
        status["conditions"] = [condition]
    if end == "Complete":
        status["completionTime"] = NOW
    return {"metadata": {"name": "t-train", "uid": "job"}, "spec": {"parallelism": 2}, "status": status}


def _owner(uid: str) -> Object:
    return {"uid": uid, "controller": True}
