"""Triton: the model repository's configuration and the server that serves it.

For torch formats the repository is made in the pod: an init container lays out our config.pbtxt and, out of its own
image, a python-backend model which loads the artefact and completes inputs and outputs from it: code comes with an
image, so that a new operator alone restarts nothing. A ready-made repository is served as it is.
"""

from moorage.api.facts import InvalidSpec, ResolvedModel
from moorage.api.modeldeployment import NOT_FOR_TRITON, ModelDeployment
from moorage.api.names import GRPC_PORT, HTTP_PORT, METRICS_PORT, triton_name
from moorage.api.runtimes import Triton
from moorage.desired import pbtxt, pods, runtime
from moorage.desired.defaults import Defaults
from moorage.desired.meta import Manifest
from moorage.desired.model import Placed, init_container, place
from moorage.desired.runtime import LINGER

LONGEST_WAIT = 86_400_000_000
PRIORITY, LOWEST_PRIORITY = 5, 9
"""As the torch server has them."""

_REPOSITORY = "/models"
_CONFIG = "/etc/moorage/triton"
# A gRPC client keeps its channel to one pod for ever: it would never see a new replica, and lose requests when its own
# goes, as Triton turns them away after SIGTERM. Asked to connect anew this often, less than a pod lingers, with a tenth
# of chance that gRPC adds and a second until the Service forgets the pod, all have left by then. Requests in flight and
# open streams are finished first.
_CHANNEL_SECONDS = LINGER - 2


def parts(md: ModelDeployment, triton: Triton, model: ResolvedModel, defaults: Defaults) -> runtime.Parts:
    if model.format in NOT_FOR_TRITON:  # of a TrainingJob: else the schema has refused it
        raise InvalidSpec(f"spec.runtime.triton: the model is of format {model.format}: use runtime.torch")
    ready_made = model.format == "TritonRepository"
    placed = place(md, model, defaults, verify=ready_made)
    if placed.path is None:
        raise InvalidSpec("spec.model: runtime.triton needs a model: set model.uri or model.fromTrainingJobs")
    laid_out = Placed(placed.path) if ready_made else _layout(md, model, placed, defaults)

    container, volumes = runtime.container(
        md,
        defaults.triton_image,
        defaults,
        mounts=[*placed.mounts, *laid_out.mounts],
        ours=True,
        command=["tritonserver"],
        args=[
            f"--model-repository={laid_out.path}",
            f"--http-port={HTTP_PORT}",
            f"--grpc-port={GRPC_PORT}",
            f"--metrics-port={METRICS_PORT}",
            # The kubelet keeps the last 2 KB of the log of a server that ended: they shall say why, not how it was set
            # up.
            "--log-info=false",
            # After SIGTERM Triton takes no new connections and waits so long for those that are open.
            f"--exit-timeout-secs={md.spec.drain.timeout_seconds}",
            f"--grpc-max-connection-age={_CHANNEL_SECONDS * 1000}",
            *triton.args,
        ],
        ports=runtime.ports(grpc=True),
        env=pods.env(
            MOORAGE_MODEL_PATH=placed.path,
            MOORAGE_MODEL_NAME=md.metadata.name,
            MOORAGE_MODEL_VERSION=model.version,
            MOORAGE_MODEL_FORMAT=model.format,
            OMP_NUM_THREADS=pods.threads(md.spec.resources),
        )
        + pods.home(),
        **runtime.protocol_probes(),
    )
    return runtime.Parts(
        container,
        [*placed.volumes, *laid_out.volumes, *volumes],
        [*placed.init, *laid_out.init],
        config=None if ready_made else {"config.pbtxt": config(md, triton)},
        grpc="grpc",
    )


def _layout(md: ModelDeployment, model: ResolvedModel, placed: Placed, defaults: Defaults) -> Placed:
    repository = {"name": "repository", "mountPath": _REPOSITORY}
    config = {"name": "triton-config", "mountPath": _CONFIG, "readOnly": True}
    # What was fetched has been checked on the way; a mounted model is checked here.
    digest = ["--sha256", model.sha256] if model.sha256 and not placed.init else []
    command = [
        *("python", "-m", "moorage_store", "triton-repository"),
        *("--name", md.metadata.name, "--version", version(model)),
        *("--config-dir", _CONFIG, "--dest", _REPOSITORY),
        *("--model", placed.path or "", "--format", model.format, *digest),
    ]
    volumes: list[Manifest] = [
        {"name": "repository", "emptyDir": {}},
        {"name": "triton-config", "configMap": {"name": triton_name(md.metadata.name)}},
    ]
    mounts = [*({**mount, "readOnly": True} for mount in placed.mounts), repository, config]
    init = init_container(md, "repository", command, mounts, defaults)
    return Placed(_REPOSITORY, volumes, [{**repository, "readOnly": True}], [init])


def version(model: ResolvedModel) -> str:
    """Triton's version is a folder whose name is a whole number. A TrainingJob's name is none: then it is 1."""
    return model.version if model.version.isdecimal() and int(model.version) > 0 else "1"


def config(md: ModelDeployment, triton: Triton) -> str:
    """config.pbtxt. Inputs and outputs are left to the model, which reads them from the artefact."""
    size = 64 if triton.max_batch_size is None else triton.max_batch_size
    message: dict[str, object] = {"name": md.metadata.name, "backend": "python", "max_batch_size": size}
    if size > 0:
        message["dynamic_batching"] = {
            **({"preferred_batch_size": triton.preferred_batch_sizes} if triton.preferred_batch_sizes else {}),
            "max_queue_delay_microseconds": triton.max_queue_delay_microseconds or 0,
            **(_limited(triton.max_queue_size) if triton.max_queue_size else {}),
        }
    kind = "KIND_GPU" if md.spec.resources.gpus else "KIND_CPU"
    message["instance_group"] = [{"count": triton.instance_count or 1, "kind": pbtxt.Symbol(kind)}]
    return pbtxt.render(message)


def _limited(size: int) -> dict[str, object]:
    """Only where asked for: with any of these set, Triton's batcher takes no request in advance, and one that arrives
    while the only instance ends another waits for the batcher's next look, half a second later (docs/design.md)."""
    return {
        # A request's own parameters `priority` and `timeout` mean what they mean to the torch server.
        "priority_levels": LOWEST_PRIORITY,
        "default_priority_level": PRIORITY,
        "default_queue_policy": {
            "timeout_action": pbtxt.Symbol("REJECT"),
            # A request may only ask for less than this, and for nothing where this is not said.
            "default_timeout_microseconds": LONGEST_WAIT,
            "allow_timeout_override": True,
            "max_queue_size": size,
        },
    }
