"""The children of a TrainingJob: a headless Service and an Indexed Job that runs torchrun on every worker.

Names are the same for ever, so a restarted operator adopts what is there. A Job's template is immutable, so a change
has to delete and re-create it: `verdict` says when. Only the user's change does; an upgrade of the operator never
restarts a training that runs.
"""

import json
from typing import Any, Literal

from moorage.api.names import FIXED_DIGEST, RENDEZVOUS_PORT, STATUS_PORT, TEMPLATE_DIGEST, TRAINER, train_name
from moorage.api.trainingjob import Recipe, TrainingJob
from moorage.desired import overlay, pods, source
from moorage.desired.defaults import Defaults
from moorage.desired.digest import covers, digest, stamp
from moorage.desired.meta import Manifest, child, labels, selector

Verdict = Literal["Apply", "Nothing", "Recreate", "Keep"]

# Exit codes of docs/contracts.md.
_USER_ERRORS = [64, 65, 66, 78]
_TRANSIENT = 75
# Incidents that may cost all workers at once before the Job gives up.
_INCIDENTS = 3
_LIBRARY = "/moorage/lib"
# What Kubernetes does not let anybody change in a Job.
_FIXED = ("template", "completions", "completionMode", "podFailurePolicy", "podReplacementPolicy")
# The rest of the gang waits for a worker on a dead node: five minutes, Kubernetes' own default, is too long.
_NODE_LOST_SECONDS = 30


def children(tj: TrainingJob, defaults: Defaults) -> list[Manifest]:
    return [stamp(_service(tj)), stamp(_job(tj, defaults))]


def verdict(live: dict[str, Any], desired: Manifest) -> Verdict:
    """What is to be done about a Job that is there. Recreate: delete it, and apply when it is gone. Keep: leave it
    alone."""
    if _annotation(live, TEMPLATE_DIGEST) != _annotation(desired, TEMPLATE_DIGEST):
        return "Keep" if _finished(live) else "Recreate"
    if covers(live, desired):
        return "Nothing"
    # By digest, because an apply also removes what is no longer wanted; and by content, in case somebody changed it.
    same = _annotation(live, FIXED_DIGEST) == _annotation(desired, FIXED_DIGEST)
    same = same and all(covers(live["spec"].get(key), desired["spec"].get(key)) for key in _FIXED)
    return "Apply" if same else "Keep"


def retire(tj: TrainingJob, live: dict[str, Any] | None) -> dict[str, Any] | None:
    """The merge patch that lets Kubernetes remove the Job of a finished TrainingJob; None where there is nothing to do.

    The Job is made without ttlSecondsAfterFinished: one that vanished before its end was written into the status would
    look as if it had never run, and the training would begin again.
    """
    wanted = tj.spec.ttl_seconds_after_finished
    if live is None or not tj.finished or live["spec"].get("ttlSecondsAfterFinished") == wanted:
        return None
    return {"spec": {"ttlSecondsAfterFinished": wanted}}


def _annotation(job: dict[str, Any], name: str) -> str | None:
    annotations: dict[str, str] = job["metadata"].get("annotations") or {}
    return annotations.get(name)


def _finished(job: dict[str, Any]) -> bool:
    conditions = (job.get("status") or {}).get("conditions") or []
    return any(c["type"] in ("Complete", "Failed") and c["status"] == "True" for c in conditions)


def _service(tj: TrainingJob) -> Manifest:
    spec = {
        "clusterIP": "None",
        # Workers meet before any of them is ready.
        "publishNotReadyAddresses": True,
        "selector": selector(tj),
        "ports": [
            {"name": "rendezvous", "port": RENDEZVOUS_PORT, "targetPort": RENDEZVOUS_PORT, "protocol": "TCP"},
            {"name": "status", "port": STATUS_PORT, "targetPort": STATUS_PORT, "protocol": "TCP"},
        ],
    }
    return child(tj, "v1", "Service", train_name(tj.metadata.name), spec=spec)


def _job(tj: TrainingJob, defaults: Defaults) -> Manifest:
    spec = tj.spec
    template = {"metadata": {"labels": labels(tj)}, "spec": _pod(tj, defaults)}
    body: Manifest = {
        "completionMode": "Indexed",
        "completions": spec.workers,
        "parallelism": spec.workers,
        # Only transient ends count (see the policy): one incident may end all workers.
        "backoffLimit": _INCIDENTS * spec.workers,
        # A worker's successor starts when the worker is gone, not while it still holds its GPUs.
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": _failure_rules()},
        "template": overlay.apply(template, spec.pod_template),
    }
    if spec.active_deadline_seconds is not None:
        body["activeDeadlineSeconds"] = spec.active_deadline_seconds
    job = child(tj, "batch/v1", "Job", train_name(tj.metadata.name), spec=body)
    # Of the user's wish, not of the template: a new operator may make another template of the same wish. Only what
    # may change, and without defaults, which a new CRD writes into resources that are there.
    wish = spec.model_dump(include={"resources", "pod_template"}, exclude_defaults=True)
    fixed = {key: body.get(key) for key in _FIXED}
    job["metadata"]["annotations"] = {TEMPLATE_DIGEST: digest(wish), FIXED_DIGEST: digest(fixed)}
    return job


def _failure_rules() -> list[Manifest]:
    def on_exit(action: str, operator: str, codes: list[int]) -> Manifest:
        return {"action": action, "onExitCodes": {"operator": operator, "values": codes}}

    return [
        on_exit("FailJob", "In", _USER_ERRORS),
        # Evicted, preempted, its node drained or lost: not the training's fault, and never counted.
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        on_exit("Count", "In", [_TRANSIENT]),
        # The program failed: without a checkpoint it would fail again, from the beginning.
        on_exit("FailJob", "NotIn", [_TRANSIENT]),
    ]


def _pod(tj: TrainingJob, defaults: Defaults) -> Manifest:
    spec = tj.spec
    volumes, mounts = pods.scratch(spec.resources)
    data_volumes, data_mounts = _stores(tj)
    library, init = _library(tj, defaults)
    script = spec.trainer.script
    container: Manifest = {
        "name": TRAINER,
        **pods.image((script and script.image) or defaults.torch_image, defaults),
        "command": ["python", "-m", "moorage_trainer.launch", *(["--", *script.command] if script else [])],
        "ports": [
            {"name": "rendezvous", "containerPort": RENDEZVOUS_PORT, "protocol": "TCP"},
            {"name": "status", "containerPort": STATUS_PORT, "protocol": "TCP"},
        ],
        "env": _env(tj),
        "envFrom": [{"secretRef": {"name": name}} for name in _secrets(tj)],
        "resources": pods.requirements(spec.resources, defaults),
        "securityContext": pods.container_security(read_only=script is None or script.image is None),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [*data_mounts, *({**mount, "readOnly": True} for mount in library), *mounts],
    }
    return pods.spec(
        defaults,
        spec.resources,
        tolerations=[
            {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": _NODE_LOST_SECONDS}
            for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
        ],
        restartPolicy="Never",
        # Gives every worker a name of its own: N-train-INDEX.N-train.
        subdomain=train_name(tj.metadata.name),
        terminationGracePeriodSeconds=30,
        initContainers=init,
        containers=[{key: value for key, value in container.items() if value not in ([], {})}],
        volumes=[*data_volumes, *({"name": mount["name"], "emptyDir": {}} for mount in library), *volumes],
    )


def _stores(tj: TrainingJob) -> tuple[list[Manifest], list[Manifest]]:
    """Volumes and mounts of data and output. A claim that has both is mounted once, to write."""
    data = source.parse(tj.spec.data.uri) if tj.spec.data else None
    output = source.parse(tj.spec.output.uri) if tj.spec.output else None
    volumes, mounts = [], []
    if isinstance(output, source.Claim):
        volumes.append(output.volume("output"))
        mounts.append(output.mount("output", read_only=False))
    if isinstance(data, source.ConfigMapKey):
        volumes.append(data.volume("data"))
        mounts.append(data.mount("data"))
    elif isinstance(data, source.Claim) and not (isinstance(output, source.Claim) and output.name == data.name):
        volumes.append(data.volume("data"))
        mounts.append(data.mount("data", read_only=True))
    return volumes, mounts


def _library(tj: TrainingJob, defaults: Defaults) -> tuple[list[Manifest], list[Manifest]]:
    """An image of the user's has torch but not our launcher: an init container brings it along."""
    script = tj.spec.trainer.script
    if script is None or script.image is None:
        return [], []
    mount = {"name": "launcher", "mountPath": _LIBRARY}
    init = {
        "name": "launcher",
        **pods.image(defaults.torch_image, defaults),
        "command": ["python", "-m", "moorage_trainer.install", _LIBRARY],
        "env": pods.home(),
        "resources": pods.requirements(tj.spec.resources, defaults, gpus=False),
        "securityContext": pods.container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [mount, {"name": "tmp", "mountPath": "/tmp"}],
    }
    return [mount], [init]


def _secrets(tj: TrainingJob) -> list[str]:
    refs = [block.secret_ref.name for block in (tj.spec.data, tj.spec.output) if block and block.secret_ref]
    return list(dict.fromkeys(refs))


def _env(tj: TrainingJob) -> list[Manifest]:
    spec, name = tj.spec, train_name(tj.metadata.name)
    found = pods.env(
        PET_NNODES=spec.workers,
        PET_NPROC_PER_NODE=spec.processes,
        PET_RDZV_BACKEND="c10d",
        PET_RDZV_ENDPOINT=f"{name}-0.{name}.{tj.metadata.namespace}.svc:{RENDEZVOUS_PORT}",
        PET_RDZV_ID=tj.metadata.uid,
        PET_MAX_RESTARTS=0,
        # Without it a rendezvous host that dies takes the workers' store with it.
        TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1,
        MOORAGE_JOB=tj.metadata.name,
        MOORAGE_NAMESPACE=tj.metadata.namespace,
        MOORAGE_STATUS_PORT=STATUS_PORT,
        OMP_NUM_THREADS=pods.threads(spec.resources, spec.processes),
        PYTHONUNBUFFERED=1,
    )
    found += pods.home()
    if spec.data:
        found += pods.env(MOORAGE_DATA_URI=spec.data.uri)
        where = source.parse(spec.data.uri)
        if not isinstance(where, source.Remote):
            found += pods.env(MOORAGE_DATA_PATH=where.path)
    if spec.output:
        found += pods.env(MOORAGE_OUTPUT_URI=spec.output.uri, MOORAGE_OUTPUT_FORMAT=spec.output.format)
        place = source.parse(spec.output.uri)
        if isinstance(place, source.Claim):
            found += pods.env(MOORAGE_OUTPUT_MOUNT=place.path)
    if spec.trainer.recipe:
        found += pods.env(MOORAGE_RECIPE=recipe_json(spec.trainer.recipe))
    script = spec.trainer.script
    if script is not None:
        own = {variable.name for variable in script.env}
        found = [variable for variable in found if variable["name"] not in own]
        if script.image is not None and "PYTHONPATH" not in own:
            found += pods.env(PYTHONPATH=_LIBRARY)
        found += [_with_library(variable, script.image is not None) for variable in pods.user_env(script.env)]
    return found


def _with_library(variable: Manifest, needed: bool) -> Manifest:
    if needed and variable["name"] == "PYTHONPATH" and "value" in variable:
        return {**variable, "value": f"{_LIBRARY}:{variable['value']}"}
    return variable


def recipe_json(recipe: Recipe) -> str:
    """The block as the trainer reads it, every default filled in."""
    block = recipe.model_dump(by_alias=True, exclude_none=True)
    if recipe.model.type == "MLP":
        block["model"] = {"hiddenSizes": [128, 64], "dropout": "0", **block["model"]}
    return json.dumps(block, separators=(",", ":"))
