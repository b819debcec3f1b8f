"""ModelDeployment: serve one model on torch, on Triton or in a container of the user's, on a number of pods."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from moorage.api.runtimes import CONFIGURED, Runtime
from moorage.api.types import (
    ATOMIC,
    BUCKET,
    CLAIM,
    NO_DOTS,
    Decimal,
    Free,
    LabelValue,
    Model,
    ModelVersion,
    Resource,
    Resources,
    SecretKey,
    SecretKeyRef,
    SecretRef,
    ServerFormat,
    Uri,
    cel,
    rules,
)

Format = Literal[ServerFormat, "TritonRepository"]
NOT_FOR_TRITON = ["AOTInductor", "ONNX", "Python", "Safetensors"]
"""Unless in a repository of its own kind."""


class FromTrainingJobs(Model):
    """Which TrainingJobs to follow."""

    match_labels: Annotated[dict[str, LabelValue], Field(min_length=1, max_length=16)]
    """Labels a TrainingJob of the same namespace must have. At least one."""


class DecryptionKeyRef(SecretKeyRef):
    """One entry of a Secret of the same namespace: 32 bytes, as they are or in base64."""

    key: SecretKey = "key"
    """Which entry. Default key."""


class ModelSource(Model):
    """Which model is served."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            cel(
                "[has(self.uri), has(self.fromTrainingJobs)].exists_one(x, x)",
                "set exactly one of uri (serve this model) and fromTrainingJobs (serve what training makes)",
            ),
            cel(
                "!has(self.decryptionKeyRef) || has(self.uri)",
                "leave decryptionKeyRef out beside fromTrainingJobs: what training writes is not encrypted",
                fieldPath=".decryptionKeyRef",
            ),
            cel(
                "!has(self.fromTrainingJobs) || (!has(self.format) && !has(self.sha256))",
                "leave format and sha256 out beside fromTrainingJobs: both come from the TrainingJob",
            ),
        )
    )

    uri: (
        Annotated[
            Uri,
            Field(
                json_schema_extra=rules(
                    cel(
                        "self.matches('^(pvc|s3|http|https)://.+')",
                        "write pvc://CLAIM/PATH, s3://BUCKET/KEY, http://HOST/PATH or https://HOST/PATH",
                    ),
                    NO_DOTS,
                    CLAIM,
                    BUCKET,
                )
            ),
        ]
        | None
    ) = None
    """Where the model is: pvc://CLAIM/PATH (mounted read-only, never copied), s3://BUCKET/KEY, or http(s)://HOST/PATH
    of one file or of a .tar, .tar.gz, .tgz or .zip that is unpacked. A folder with model.pt2 (or what else
    the format calls it) or that file itself."""
    from_training_jobs: FromTrainingJobs | None = None
    """Serve the output of the TrainingJob that matches and succeeded last. When a newer one succeeds, the pods are
    replaced one after the other. When the TrainingJob is deleted, its model stays in service."""
    format: Format | None = None
    """TorchExport (model.pt2, a torch.export archive), TorchScript (model.pt), AOTInductor (model.pt2, compiled for
    what it runs on), ONNX (model.onnx), Python (a folder with model.py, whose class Model predicts or generates text),
    Safetensors (a folder with model.safetensors, and a moorage.yaml that says which torch.nn.Module takes its weights),
    or TritonRepository (a Triton model repository, served as it is; needs runtime.triton). AOTInductor, Python and
    Safetensors run code in the pod; they and ONNX need runtime.torch. Default TorchExport."""
    version: ModelVersion | None = None
    """What clients and metrics see as the model's version. Default "1", or the name of the TrainingJob with
    fromTrainingJobs. Triton knows whole numbers only."""
    sha256: (
        Annotated[
            str,
            Field(
                max_length=64,
                json_schema_extra=rules(
                    cel("self.matches('^[a-f0-9]{64}$')", "write the 64 lower-case hexadecimal digits of sha256sum")
                ),
            ),
        ]
        | None
    ) = None
    """Serve exactly this content or fail, saying so. Of a file its sha256sum; of a folder that of its sorted sha256sum
    listing (see docs/contracts.md). Default: not checked."""
    decryption_key_ref: DecryptionKeyRef | None = None
    """The key of a model that lies encrypted in its store, each of its files by `python -m moorage_store encrypt`
    (AES-256-GCM). Its content is in the pod's memory only, and counts there, of several models all of it. Default: it
    is not encrypted."""
    secret_ref: SecretRef | None = None
    """Secret with the store's credentials under the AWS names (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION,
    AWS_ENDPOINT_URL), or HTTP_BEARER_TOKEN for http(s). Default: none, or the TrainingJob's with fromTrainingJobs."""


class Metric(Model):
    """One measure of load."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            cel(
                "(self.type == 'Prometheus') == has(self.query)",
                "set query with type Prometheus, and only there: Concurrency is measured by the servers themselves",
            ),
            cel("double(string(self.target)) > 0.0", "target must be greater than 0", fieldPath=".target"),
        )
    )

    type: Literal["Concurrency", "Prometheus"]
    """Concurrency (requests in flight, waiting ones included; torch and triton) or Prometheus (the value of `query`).
    """
    target: Decimal
    """How much of it one replica should carry: replicas = total / target, rounded up. Decimals in quotes, "0.5"."""
    query: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """PromQL whose one value is the total load over all replicas, for example sum(queue_length{queue="digits"})."""


class ScaleDown(Model):
    """How fast replicas are taken away."""

    stabilization_seconds: Annotated[int, Field(ge=0, le=3600)] = 300
    """Keep what the highest load of the last so many seconds needed. Default 300."""


class Scaling(Model):
    """Replicas follow load measured by Prometheus."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            {
                "rule": "!has(self.minReplicas) || self.minReplicas <= self.maxReplicas",
                "message": "minReplicas must be at most maxReplicas",
                "messageExpression": "'minReplicas %d is more than maxReplicas %d: raise maxReplicas or lower "
                "minReplicas'.format([self.minReplicas, self.maxReplicas])",
            }
        )
    )

    min_replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    """Never fewer replicas. Default 1."""
    max_replicas: Annotated[int, Field(ge=1, le=1000)]
    """Never more replicas."""
    metrics: Annotated[
        list[Metric],
        Field(
            min_length=1,
            max_length=8,
            json_schema_extra={
                **ATOMIC,
                **rules(
                    cel(
                        "self.filter(m, m.type == 'Concurrency').size() <= 1",
                        "Concurrency may be given once: keep the entry with the lower target",
                    )
                ),
            },
        ),
    ]
    """Measures of load. The one that asks for most replicas wins; one without data never takes replicas away."""
    scale_down: ScaleDown = Field(default_factory=ScaleDown)
    """How fast replicas are taken away. Replicas are added at once."""


class Drain(Model):
    """How a pod leaves."""

    timeout_seconds: Annotated[int, Field(ge=0, le=3600)] = 30
    """How long requests in flight may take when their pod has to go. Default 30."""


class ModelDeploymentSpec(Model):
    """What is wanted."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            cel(
                "!(has(self.replicas) && has(self.scaling))",
                "replicas must be absent when scaling is set: set scaling.minReplicas and maxReplicas instead",
                fieldPath=".replicas",
                reason="FieldValueForbidden",
            ),
            cel(
                "has(self.model) || has(self.runtime.container)",
                "set model: only runtime.container may bring its model in the image",
            ),
            cel(
                "!has(self.runtime.torch) || !has(self.runtime.torch.models) || (has(self.model) && "
                "has(self.model.uri) && !has(self.model.format) && !has(self.model.version))",
                "with runtime.torch.models set model.uri, the folder that holds them, and no format or version beside "
                "it: each model has its own",
            ),
            cel(
                "!has(self.model) || !has(self.model.format) || self.model.format != 'TritonRepository' || "
                "!has(self.runtime.torch)",
                "a TritonRepository is served by runtime.triton, not by runtime.torch",
            ),
            cel(
                "!has(self.model) || !has(self.model.format) || !has(self.runtime.triton) || "
                f"!(self.model.format in {NOT_FOR_TRITON})",
                f"formats {', '.join(NOT_FOR_TRITON)} need runtime.torch: Triton has backends of its own for them, in "
                "a TritonRepository",
            ),
            cel(
                "!has(self.model) || !has(self.model.format) || self.model.format != 'TritonRepository' || "
                f"!has(self.runtime.triton) || !({' || '.join(f'has(self.runtime.triton.{f})' for f in CONFIGURED)})",
                f"{', '.join(CONFIGURED)} must be absent with format TritonRepository: the repository's own "
                "config.pbtxt says them",
            ),
            cel(
                "!has(self.runtime.triton) || !has(self.model) || !has(self.model.version) || "
                "self.model.version.matches('^[1-9][0-9]{0,8}$')",
                'Triton knows whole numbers only: write model.version as "1", "2", …',
            ),
            cel(
                "!has(self.runtime.container) || !has(self.scaling) || "
                "self.scaling.metrics.all(m, m.type != 'Concurrency')",
                "a container's requests in flight are not known: use a metric {type: Prometheus, query: …, target: …}",
            ),
        )
    )

    model: ModelSource | None = None
    """Which model is served. May be absent with runtime.container only."""
    runtime: Runtime
    """What serves it: exactly one of torch, triton and container."""
    resources: Resources = Field(default_factory=Resources)
    """What each pod gets: GPUs, CPU, memory."""
    replicas: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Number of pods; `kubectl scale` changes it. Absent when `scaling` is set. Default 1."""
    scaling: Scaling | None = None
    """Let the number of pods follow the load."""
    drain: Drain = Field(default_factory=Drain)
    """How pods leave: they stop taking requests, finish those in flight, then exit."""
    pod_template: Free | None = None
    """Anything else about the pods, as {metadata, spec} of a pod template. Merged last: containers, init containers,
    volumes, env, ports and volume mounts by their key, tolerations and envFrom added, everything else replaced; null
    removes. The server's container is named "server"."""


class ModelDeployment(Resource):
    """Serves one model on a number of pods and lets their number follow the load."""

    spec: ModelDeploymentSpec
    """What is wanted."""
    status: dict[str, Any] = Field(default_factory=dict)
    """What is."""

    @property
    def replicas(self) -> int:
        """What the user asks for where nothing scales."""
        return 1 if self.spec.replicas is None else self.spec.replicas
