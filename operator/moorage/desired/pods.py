"""What every pod of ours has: a restricted security context, scratch space, shared memory, GPUs and their
tolerations."""

import math
from typing import Any

from moorage.api.facts import InvalidSpec
from moorage.api.types import EnvVar, Resources, SecretKeyRef
from moorage.desired import quantity
from moorage.desired.defaults import Defaults
from moorage.desired.meta import Manifest

# The "nonroot" of distroless images. A number, as the kubelet cannot check runAsNonRoot by name.
USER = 65532


def security() -> Manifest:
    """Of a pod: what the restricted Pod Security Standard asks, and a group that may write to volumes."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        # A claim with a million files is not walked at every start.
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security(*, read_only: bool = True) -> Manifest:
    """Of a container. Images of the user's may write to their root: many of them must."""
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        **({"readOnlyRootFilesystem": True} if read_only else {}),
    }


def scratch(resources: Resources) -> tuple[list[Manifest], list[Manifest]]:
    """Volumes and mounts of /tmp and /dev/shm. The container runtime's own /dev/shm is 64 MiB: too small for torch."""
    memory: Manifest = {"medium": "Memory"}
    if resources.shared_memory is not None:
        memory["sizeLimit"] = quantity.text(resources.shared_memory)
    volumes = [{"name": "tmp", "emptyDir": {}}, {"name": "shm", "emptyDir": memory}]
    mounts = [{"name": "tmp", "mountPath": "/tmp"}, {"name": "shm", "mountPath": "/dev/shm"}]
    return volumes, mounts


def requirements(resources: Resources, defaults: Defaults, *, gpus: bool = True) -> Manifest:
    """Of a container. Init containers get the same without GPUs: the pod asks for no more, and quotas are met."""
    limits = {name: quantity.text(amount) for name, amount in resources.limits.items()}
    device = gpu_resource(resources, defaults)
    if device in resources.limits or device in resources.requests:
        raise InvalidSpec(f"spec.resources: write the number of GPUs as gpus, not as {device} in requests or limits")
    if gpus and resources.gpus:
        limits[device] = str(resources.gpus)
    found = {
        "requests": {name: quantity.text(amount) for name, amount in resources.requests.items()},
        "limits": limits,
    }
    return {key: amounts for key, amounts in found.items() if amounts}


def gpu_resource(resources: Resources, defaults: Defaults) -> str:
    return resources.gpu_resource or defaults.gpu_resource


def tolerations(resources: Resources, defaults: Defaults) -> list[Manifest]:
    """Of the taint that keeps other pods off GPU nodes: by custom its key is the resource's name."""
    if not resources.gpus:
        return []
    taint = {"key": gpu_resource(resources, defaults), "operator": "Exists", "effect": "NoSchedule"}
    return [taint, *(dict(extra) for extra in defaults.gpu_tolerations if dict(extra) != taint)]


def threads(resources: Resources, processes: int = 1) -> int:
    """Threads for each process: the CPUs it may use. torch would start one for each core of the node instead."""
    cpu = quantity.value(resources.limits.get("cpu", resources.requests.get("cpu")))
    return max(1, math.floor(cpu / processes)) if cpu is not None else 1


def image(name: str, defaults: Defaults) -> Manifest:
    """One of the operator's own images. The pull policy is for them; an image of the user's follows Kubernetes'
    rule."""
    ours = name in (defaults.torch_image, defaults.triton_image)
    return {
        "image": name,
        **({"imagePullPolicy": defaults.image_pull_policy} if ours and defaults.image_pull_policy else {}),
    }


def env(**values: str | int) -> list[Manifest]:
    return [{"name": name, "value": str(value)} for name, value in values.items()]


def secret_entry(ref: SecretKeyRef) -> Manifest:
    """A volume's source that has this one entry, as a file of its name."""
    return {"secretName": ref.name, "items": [{"key": ref.key, "path": ref.key}]}


def home() -> list[Manifest]:
    """Our user has no entry in an image's /etc/passwd: programs that look for it are told."""
    return env(HOME="/tmp", USER="moorage")


def user_env(variables: list[EnvVar]) -> list[Manifest]:
    return [variable.model_dump(by_alias=True, exclude_none=True) for variable in variables]


def spec(defaults: Defaults, resources: Resources, **body: Any) -> Manifest:
    """A pod's spec around its containers and volumes."""
    found: Manifest = {
        "automountServiceAccountToken": False,
        # Environment variables for every Service of the namespace help nobody and slow down start-up.
        "enableServiceLinks": False,
        "securityContext": security(),
        "imagePullSecrets": [{"name": name} for name in defaults.image_pull_secrets],
        "tolerations": [*tolerations(resources, defaults), *body.pop("tolerations", [])],
        **body,
    }
    return {key: value for key, value in found.items() if value != []}
