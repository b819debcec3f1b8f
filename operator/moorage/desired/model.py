"""Which model is served, and how it gets into a pod."""

from dataclasses import dataclass, field
from typing import Any

from moorage.api.conditions import find
from moorage.api.facts import ResolvedModel, Waiting
from moorage.api.modeldeployment import ModelDeployment, ModelSource
from moorage.desired import pods, source
from moorage.desired.defaults import Defaults
from moorage.desired.meta import Manifest

__all__ = ["Placed", "ResolvedModel", "Waiting", "place", "resolve"]

_FETCHED = "/mnt/model/artifact"
# Claims are at /mnt/CLAIM.
_PLAIN, _KEY = "/run/moorage/model", "/etc/moorage/model-key"
# Reasons of a training that goes well.
_ON_THE_WAY = {None, "", "Creating", "Scheduling", "ContainerCreating", "FetchingModel", "Starting", "Running"}


def resolve(md: ModelDeployment, training_jobs: list[dict[str, Any]]) -> ResolvedModel | Waiting:
    """The model to serve. `training_jobs`: all of any namespace, as the API server gives them."""
    model = md.spec.model
    if model is None:
        return ResolvedModel(uri=None, format="", version="1")
    secret = model.secret_ref.name if model.secret_ref else None
    if md.spec.runtime.models:
        return ResolvedModel(uri=model.uri, format="", version="", sha256=model.sha256, secret=secret)
    if model.from_training_jobs is None:
        return ResolvedModel(
            uri=model.uri,
            format=model.format or "TorchExport",
            version=model.version or "1",
            sha256=model.sha256,
            secret=secret,
        )

    wanted = model.from_training_jobs.match_labels
    matching = [job for job in training_jobs if _matches(job, md.metadata.namespace, wanted)]
    succeeded = [job for job in matching if _succeeded(job)]
    if succeeded:
        return _from_job(max(succeeded, key=_age), model.version, secret)
    return _kept(md, model, wanted) or _waiting(wanted, matching)


def _matches(job: dict[str, Any], namespace: str, wanted: dict[str, str]) -> bool:
    metadata = job["metadata"]
    labels = metadata.get("labels") or {}
    return (
        metadata.get("namespace") == namespace
        and not metadata.get("deletionTimestamp")
        and all(labels.get(key) == value for key, value in wanted.items())
    )


def _succeeded(job: dict[str, Any]) -> bool:
    status = job.get("status") or {}
    condition = find(status.get("conditions"), "Succeeded")
    return condition is not None and condition["status"] == "True" and bool((status.get("output") or {}).get("uri"))


def _age(job: dict[str, Any]) -> tuple[str, str, str]:
    metadata = job["metadata"]
    return (job["status"].get("completionTime") or "", metadata.get("creationTimestamp") or "", metadata["name"])


def _from_job(job: dict[str, Any], version: str | None, secret: str | None) -> ResolvedModel:
    name, output = job["metadata"]["name"], job["status"]["output"]
    asked = job["spec"].get("output") or {}
    return ResolvedModel(
        uri=output["uri"],
        format=asked.get("format") or "TorchExport",
        version=version or name,
        sha256=output.get("sha256"),
        secret=secret or (asked.get("secretRef") or {}).get("name"),
        training_job=name,
    )


def _kept(md: ModelDeployment, model: ModelSource, wanted: dict[str, str]) -> ResolvedModel | None:
    """The TrainingJob is gone, its model is not: go on with what the status says, unless the question has changed.

    The question is the labels alone: the generation changes with every `kubectl scale`.
    """
    served = md.status.get("model") or {}
    if not served.get("trainingJob") or served.get("matchLabels") != wanted:
        return None
    return ResolvedModel(
        uri=served.get("uri"),
        format=served.get("format") or "TorchExport",
        version=model.version or served["trainingJob"],
        sha256=served.get("sha256"),
        secret=model.secret_ref.name if model.secret_ref else (served.get("secretRef") or {}).get("name"),
        training_job=served["trainingJob"],
    )


def _waiting(wanted: dict[str, str], matching: list[dict[str, Any]]) -> Waiting:
    labels = ",".join(f"{key}={value}" for key, value in sorted(wanted.items()))
    if not matching:
        return Waiting("WaitingForTraining", f"no TrainingJob with the labels {labels}")
    told = ", ".join(sorted(_how_far(job) for job in matching)[:5])
    return Waiting("WaitingForTraining", f"no TrainingJob with the labels {labels} has succeeded yet: {told}")


def _how_far(job: dict[str, Any]) -> str:
    """Its name, and what keeps it where it is not just on its way."""
    name = str(job["metadata"]["name"])
    ended = find((job.get("status") or {}).get("conditions"), "Succeeded")
    if ended is None or ended.get("reason") in _ON_THE_WAY:
        return name
    return f"{name} ({ended.get('reason')}: {str(ended.get('message') or '')[:200]})"


@dataclass(frozen=True)
class Placed:
    """A model inside a pod: where it is, and what has to be there for it."""

    path: str | None
    volumes: list[Manifest] = field(default_factory=list)
    mounts: list[Manifest] = field(default_factory=list)
    init: list[Manifest] = field(default_factory=list)
    decrypted: bool = False
    """It is not what the digest is of; that was checked before."""


def place(md: ModelDeployment, model: ResolvedModel, defaults: Defaults, *, verify: bool) -> Placed:
    """`verify`: check the digest of a mounted model here, for servers that do not check it themselves."""
    if model.uri is None:
        return Placed(None)
    key = md.spec.model.decryption_key_ref if md.spec.model is not None else None
    if key is None:
        return _place(md, model, model.uri, defaults, verify=verify)
    # The digest is that of what lies in the store.
    sealed = _place(md, model, model.uri, defaults, verify=True)
    plain, secret = {"name": "plain", "mountPath": _PLAIN}, {"name": "model-key", "mountPath": _KEY}
    content = f"{_PLAIN}/artifact"
    # A pod whose node restarted runs its init containers again.
    args = ["decrypt", sealed.path or "", content, "--key", f"{_KEY}/{key.key}", "--allow-existing"]
    mounts = [*({**mount, "readOnly": True} for mount in sealed.mounts), plain, {**secret, "readOnly": True}]
    volumes: list[Manifest] = [
        # Memory: the content is never written to a disk.
        {"name": "plain", "emptyDir": {"medium": "Memory"}},
        {"name": "model-key", "secret": pods.secret_entry(key)},
    ]
    return Placed(
        content,
        [*sealed.volumes, *volumes],
        [{**plain, "readOnly": True}],
        [*sealed.init, _store(md, "decrypt", args, mounts, defaults)],
        decrypted=True,
    )


def _place(md: ModelDeployment, model: ResolvedModel, uri: str, defaults: Defaults, *, verify: bool) -> Placed:
    """As it lies in the store."""
    where = source.parse(uri)
    if isinstance(where, source.Claim):
        mount = where.mount("model", read_only=True)
        check = ["verify", where.path, "--sha256", model.sha256] if verify and model.sha256 else None
        init = [_store(md, "verify", check, [mount], defaults)] if check else []
        return Placed(where.path, [where.volume("model")], [mount], init)

    mount = {"name": "model", "mountPath": "/mnt/model"}
    digest = ["--sha256", model.sha256] if model.sha256 else []
    # A pod whose node restarted runs its init containers again over the same emptyDir.
    fetch = _store(md, "fetch", ["fetch", uri, _FETCHED, *digest, "--allow-existing"], [mount], defaults)
    if model.secret:
        fetch["envFrom"] = [{"secretRef": {"name": model.secret}}]
    return Placed(_FETCHED, [{"name": "model", "emptyDir": {}}], [{**mount, "readOnly": True}], [fetch])


def _store(md: ModelDeployment, name: str, args: list[str], mounts: list[Manifest], defaults: Defaults) -> Manifest:
    return init_container(md, name, ["python", "-m", "moorage_store", *args], mounts, defaults)


def init_container(
    md: ModelDeployment, name: str, command: list[str], mounts: list[Manifest], defaults: Defaults
) -> Manifest:
    """One of our own small programs, from the torch image, before the server starts."""
    return {
        "name": name,
        **pods.image(defaults.torch_image, defaults),
        "command": command,
        "env": pods.home(),
        "resources": pods.requirements(md.spec.resources, defaults, gpus=False),
        "securityContext": pods.container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [*mounts, {"name": "tmp", "mountPath": "/tmp"}],
    }
