"""What the operator says of a ModelDeployment."""

from typing import Annotated, Literal

from pydantic import Field

from moorage.api.types import ATOMIC, BY_NAME, Conditions, Decimal, Failure, LabelValue, Model, SecretRef, Text, Time


class ModelStatus(Model):
    """The model the pods are to serve."""

    uri: Text | None = None
    """Where it is."""
    version: Text | None = None
    """Its version, as clients see it."""
    format: Text | None = None
    """Its format."""
    sha256: Text | None = None
    """The content that is demanded; absent when it is not checked."""
    training_job: Text | None = None
    """The TrainingJob that made it."""
    match_labels: dict[str, LabelValue] | None = None
    """The labels by which that TrainingJob was found. While they are asked for, the model outlives its TrainingJob."""
    secret_ref: SecretRef | None = None
    """The Secret it is fetched with."""


class ScalingEvent(Model):
    """One change of the number of replicas."""

    time: Time
    """When it was changed."""
    from_: Annotated[int, Field(alias="from")]
    """Replicas before."""
    to: int
    """Replicas after."""
    reason: Text
    """Why it was changed."""


class ScalingStatus(Model):
    """What scaling decided."""

    reason: Text | None = None
    """Why there are as many replicas as there are."""
    last_scale_time: Time | None = None
    """When the number last changed."""
    history: Annotated[list[ScalingEvent], Field(max_length=10, json_schema_extra=ATOMIC)] = Field(default_factory=list)
    """The last ten changes, the newest at the end."""


class ColdStartStep(Model):
    """One step of a pod's start."""

    name: Literal["Scheduled", "ImagePulled", "ModelFetched", "ModelPrepared", "Loaded", "Warmed", "Ready"]
    """Scheduled: a node was found. ImagePulled: images and volumes were there. ModelFetched: the model was copied into
    the pod. ModelPrepared: it was checked, decrypted, or laid out for
    Triton. Loaded, Warmed: in the server's own words. Ready:
    the rest, until the first request could come."""
    seconds: Decimal
    """How long it took."""
    bytes: int | None = None
    """How much was fetched."""


class BatchSpeed(Model):
    """How fast the model alone is in batches of a size."""

    batch_size: int
    """Samples that went through the model together."""
    samples_per_second: Decimal
    """Measured by the server before it was ready."""


class FailedModel(Model):
    """One of several models that the server could not load."""

    name: Text
    """Which model."""
    reason: Text
    """Why, as one CamelCase word. The server's repository index and its log have its words."""


class ColdStart(Model):
    """Where the time went between a pod's creation and its first request."""

    pod: Text
    """The first pod of the current template that became ready."""
    revision: Text
    """Hash of that template, a part of the names of its pods."""
    total_seconds: int
    """All steps together."""
    steps: Annotated[list[ColdStartStep], Field(max_length=16, json_schema_extra=BY_NAME)]
    """In their order. Steps that this pod has not, and times that its server does not tell, are left out."""
    speeds: Annotated[list[BatchSpeed], Field(max_length=24, json_schema_extra=ATOMIC)] | None = None
    """What the model can do at most in this pod, with nothing around it."""
    failed_models: Annotated[list[FailedModel], Field(max_length=64, json_schema_extra=BY_NAME)] | None = None
    """Of several models those that this pod could not load when it started; the first 64."""


class ModelDeploymentStatus(Model):
    """What is. Written by the operator."""

    observed_generation: int | None = None
    """The generation of the spec that this status is about."""
    replicas: int | None = None
    """Pods that exist."""
    ready_replicas: int | None = None
    """Pods of the current generation that take requests."""
    updated_replicas: int | None = None
    """Pods of the current generation."""
    desired_replicas: int | None = None
    """Pods that shall exist: spec.replicas, or what scaling decided."""
    replicas_summary: Text | None = None
    """ready/desired, for the column."""
    selector: Text | None = None
    """Label selector of the pods, for kubectl scale and autoscalers."""
    runtime: Text | None = None
    """torch, triton or container."""
    url: Text | None = None
    """Where the model answers inside the cluster."""
    model: ModelStatus | None = None
    """The model the pods are to serve."""
    scaling: ScalingStatus | None = None
    """What scaling decided."""
    cold_start: ColdStart | None = None
    """Where the time went when the current pods were started."""
    last_failure: Failure | None = None
    """What went wrong last. It stays until something else goes wrong."""
    conditions: Conditions = Field(default_factory=list)
    """Ready: all replicas of the current generation take requests. Progressing: on the way there. ModelLoaded: False
    with the server's own words. CapacityAvailable: False with the scheduler's. ScalingActive. Stalled: somebody has to
    change something."""
