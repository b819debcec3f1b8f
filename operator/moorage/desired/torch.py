"""The torch model server: its container and the environment docs/contracts.md promises it."""

from moorage.api.facts import ResolvedModel
from moorage.api.modeldeployment import ModelDeployment
from moorage.api.names import HTTP_PORT, METRICS_PORT
from moorage.api.runtimes import Torch
from moorage.desired import pods, runtime
from moorage.desired.defaults import Defaults
from moorage.desired.model import place


def parts(md: ModelDeployment, torch: Torch, model: ResolvedModel, defaults: Defaults) -> runtime.Parts:
    placed = place(md, model, defaults, verify=False)
    container, volumes = runtime.container(
        md,
        defaults.torch_image,
        defaults,
        mounts=placed.mounts,
        ours=True,
        command=["python", "-m", "moorage_server"],
        ports=runtime.ports(),
        env=pods.env(
            MOORAGE_MODEL_PATH=placed.path or "",
            MOORAGE_MODEL_NAME=md.metadata.name,
            MOORAGE_MODEL_VERSION=model.version,
            MOORAGE_MODEL_FORMAT=model.format,
            MOORAGE_MODEL_SHA256=model.sha256 or "",
            MOORAGE_DEVICE=torch.device,
            MOORAGE_MAX_BATCH_SIZE=torch.max_batch_size,
            MOORAGE_MAX_QUEUE_DELAY_MICROSECONDS=torch.max_queue_delay_microseconds,
            MOORAGE_MAX_QUEUE_SIZE=torch.max_queue_size,
            MOORAGE_MAX_BODY_BYTES=torch.max_body_bytes,
            MOORAGE_DRAIN_TIMEOUT_SECONDS=md.spec.drain.timeout_seconds,
            MOORAGE_HTTP_PORT=HTTP_PORT,
            MOORAGE_METRICS_PORT=METRICS_PORT,
            OMP_NUM_THREADS=pods.threads(md.spec.resources),
        )
        + pods.home(),
        **runtime.protocol_probes(),
    )
    return runtime.Parts(container, [*placed.volumes, *volumes], placed.init)
