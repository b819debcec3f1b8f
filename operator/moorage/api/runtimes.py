"""What serves a model: the torch server of this project, Triton, or a container of the user's."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from moorage.api.facts import InvalidSpec
from moorage.api.types import (
    ATOMIC,
    BY_NAME,
    Command,
    Env,
    Image,
    Model,
    ModelName,
    ModelVersion,
    Quantity,
    SecretKeyRef,
    SecretRef,
    ServerFormat,
    cel,
    rules,
)


class RepositoryModel(Model):
    """One of several models in a server."""

    name: ModelName
    """What clients call it."""
    path: (
        Annotated[
            str,
            Field(
                min_length=1,
                max_length=128,
                json_schema_extra=rules(
                    cel(
                        "!self.startsWith('/') && !self.matches('(^|/)[.][.](/|$)')",
                        "a path leads downwards from model.uri: write it without a leading '/' and without '..'",
                    )
                ),
            ),
        ]
        | None
    ) = None
    """Its folder or file below model.uri. Default: its name."""
    version: ModelVersion | None = None
    """Its version, as clients and metrics see it. Default "1"."""
    format: ServerFormat | None = None
    """As model.format, without TritonRepository. Default TorchExport."""


class Torch(Model):
    """The torch model server of this project: Open Inference Protocol v2 over HTTP, with dynamic batching."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            cel(
                "!has(self.memoryBudget) || has(self.models)",
                "memoryBudget is shared by several models: set models, or leave it out",
                fieldPath=".memoryBudget",
            ),
            cel(
                "!has(self.memoryBudget) || (!quantity(string(self.memoryBudget)).isLessThan(quantity('1Mi')) && "
                "!quantity(string(self.memoryBudget)).isGreaterThan(quantity('1Pi')))",
                "memoryBudget is of bytes: write for example 2Gi, at least 1Mi and at most 1Pi",
                fieldPath=".memoryBudget",
            ),
        )
    )

    models: Annotated[list[RepositoryModel], Field(min_length=1, max_length=256, json_schema_extra=BY_NAME)] | None = (
        None
    )
    """Serve these out of the folder model.uri, each by its name, instead of one model. A request loads a model that is
    not in memory; the one that was used longest ago makes room. Default: model.uri is the model."""
    memory_budget: Quantity | None = None
    """What all models together may take of memory, for example 2Gi: of the GPU's where the pod has one. Default: no
    limit, all are loaded before the server is ready."""
    max_batch_size: Annotated[int, Field(ge=1, le=65536)] = 64
    """Most samples that run through the model at once; the server takes fewer where that is as fast. Default 64."""
    max_queue_delay_microseconds: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    """How long a sample waits for others to fill a batch. Default 0: what is there runs at once."""
    max_queue_size: Annotated[int, Field(ge=1, le=1_000_000)] = 1024
    """Requests that may wait in one pod; beyond it the answer is 429 with Retry-After. Default 1024."""
    max_body_bytes: Annotated[int, Field(ge=1024, le=1 << 31)] = 67108864
    """Largest request body; beyond it the answer is 413. Default 67108864 (64 MiB)."""
    device: Literal["Auto", "CPU", "CUDA"] = "Auto"
    """Auto (a GPU where the pod has one), CPU, or CUDA (a GPU or fail). Default Auto."""
    tls_secret_ref: SecretRef | None = None
    """A Secret of type kubernetes.io/tls: the server speaks TLS with it, HTTP and gRPC, and takes a renewed certificate
    without a restart. Default: no TLS."""
    token_secret_ref: SecretKeyRef | None = None
    """Bearer tokens, one a line, of which each request has to bring one; probes need none. Changed tokens count without
    a restart. Default: whoever reaches the server may ask."""


CONFIGURED = ("maxBatchSize", "maxQueueDelayMicroseconds", "maxQueueSize", "preferredBatchSizes", "instanceCount")
"""What goes into Triton's config.pbtxt."""
_QUEUE = ("maxQueueDelayMicroseconds", "maxQueueSize", "preferredBatchSizes")


class Triton(Model):
    """NVIDIA Triton Inference Server: Open Inference Protocol v2 over HTTP and gRPC."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            {
                "rule": "!has(self.maxBatchSize) || self.maxBatchSize > 0 || "
                f"!({' || '.join(f'has(self.{field})' for field in _QUEUE)})",
                "message": f"{', '.join(_QUEUE)} need a maxBatchSize of at least 1: without batches there is no queue "
                "to configure",
            }
        )
    )

    max_batch_size: Annotated[int, Field(ge=0, le=65536)] | None = None
    """Most samples that run through the model at once; 0 for a model without a batch dimension. Default 64."""
    max_queue_delay_microseconds: Annotated[int, Field(ge=0, le=10_000_000)] | None = None
    """How long a request waits for others to fill a batch. Default 0: what is there runs at once."""
    max_queue_size: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Requests of one priority that may wait in one pod; beyond it the answer is 503. With it a request's parameters
    priority and timeout count, and with an instanceCount of 1 a request may wait up to half a second longer. Default:
    no limit."""
    preferred_batch_sizes: (
        Annotated[list[Annotated[int, Field(ge=1, le=65536)]], Field(max_length=16, json_schema_extra=ATOMIC)] | None
    ) = None
    """Sizes worth waiting for. Default: none, any size."""
    instance_count: Annotated[int, Field(ge=1, le=64)] | None = None
    """Copies of the model in each pod, on the CPU or on each GPU. Default 1."""
    args: Command = Field(default_factory=list)
    """More arguments for tritonserver, for example --log-verbose=1. Default: none."""


class Container(Model):
    """Any server that speaks HTTP."""

    image: Image
    """The image to run."""
    port: Annotated[int, Field(ge=1, le=65535)]
    """The port it listens on. The Service offers it as 8080."""
    command: Command = Field(default_factory=list)
    """Command, instead of the image's. Default: the image's."""
    args: Command = Field(default_factory=list)
    """Arguments, instead of the image's. Default: the image's."""
    env: Env = Field(default_factory=list)
    """Environment variables, beside MOORAGE_MODEL_PATH, MOORAGE_MODEL_NAME, MOORAGE_MODEL_VERSION and
    MOORAGE_MODEL_FORMAT. Default: none."""
    readiness_path: Annotated[str, Field(pattern="^/", max_length=1024)] | None = None
    """Path that answers 200 to GET when the server can take requests. Default: ready when the port accepts
    connections."""


class Runtime(Model):
    """What serves the model: exactly one block."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            {
                "rule": "[has(self.torch), has(self.triton), has(self.container)].exists_one(x, x)",
                "message": "exactly one of torch, triton, container must be set",
                "messageExpression": "'exactly one of torch, triton, container must be set; got %d: write for example "
                "runtime: {torch: {}}'.format([(has(self.torch) ? 1 : 0) + (has(self.triton) ? 1 : 0) + "
                "(has(self.container) ? 1 : 0)])",
            }
        )
    )

    torch: Torch | None = None
    """The torch model server of this project. {} for its defaults."""
    triton: Triton | None = None
    """NVIDIA Triton Inference Server. {} for its defaults."""
    container: Container | None = None
    """Any image that speaks HTTP."""

    @property
    def models(self) -> list[RepositoryModel]:
        """Where there are several; else none."""
        return (self.torch.models or []) if self.torch is not None else []

    @property
    def speaks_tls(self) -> bool:
        return self.torch is not None and self.torch.tls_secret_ref is not None

    @property
    def name(self) -> str:
        chosen = [name for name in ("torch", "triton", "container") if getattr(self, name) is not None]
        if len(chosen) != 1:
            raise InvalidSpec(f"spec.runtime: exactly one of torch, triton, container must be set; got {len(chosen)}")
        return chosen[0]
