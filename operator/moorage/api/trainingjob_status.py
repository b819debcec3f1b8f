"""What the operator says of a TrainingJob."""

from typing import Annotated, Literal

from pydantic import Field

from moorage.api.types import ATOMIC, Conditions, Failure, Model, Text, Time, Word


class Progress(Model):
    """How far it is, as the first worker says."""

    percent: int | None = None
    """Share of the steps done."""
    summary: Text | None = None
    """The same as text, for the column."""
    step: int | None = None
    """Steps done."""
    total_steps: int | None = None
    """Steps in all."""
    epoch: int | None = None
    """The current pass over the data."""
    eta_seconds: int | None = None
    """Seconds to go, at the present speed."""
    eta: Text | None = None
    """The same as text, for the column."""
    samples_per_second: Text | None = None
    """Speed over all workers."""


class Stage(Model):
    """One step of the work."""

    name: Word
    """Which step: Train."""
    state: Literal["Pending", "Running", "Succeeded", "Failed"]
    """Pending, Running, Succeeded or Failed."""
    start_time: Time | None = None
    """When it began."""
    completion_time: Time | None = None
    """When it ended."""
    message: Annotated[str, Field(max_length=32768)] | None = None
    """What it waits for, or why it failed."""


class TrainingFailure(Failure):
    """What went wrong: the first cause, not what followed from it."""

    rank: int | None = None
    """Which process of all."""
    local_rank: int | None = None
    """Which process of its pod."""
    signal: Text | None = None
    """The signal that ended it."""
    host: Text | None = None
    """Where it ran."""
    step: int | None = None
    """At which step."""
    last_lines: Annotated[list[Text], Field(max_length=50, json_schema_extra=ATOMIC)] = Field(default_factory=list)
    """The last lines it wrote."""


class OutputStatus(Model):
    """The published model."""

    uri: Text | None = None
    """Where it is."""
    sha256: Text | None = None
    """Digest of its content."""
    size_bytes: int | None = None
    """Its size."""


class TrainingJobStatus(Model):
    """What is. Written by the operator."""

    observed_generation: int | None = None
    """The generation of the spec that this status is about."""
    start_time: Time | None = None
    """When the training began."""
    completion_time: Time | None = None
    """When it ended, well or not."""
    active_workers: int | None = None
    """Pods that run."""
    workers_summary: Text | None = None
    """running/wanted, for the column."""
    progress: Progress | None = None
    """How far it is."""
    metrics: Annotated[dict[str, Text], Field(max_length=64)] = Field(default_factory=dict)
    """What was measured, for example loss and accuracy."""
    stages: Annotated[
        list[Stage],
        Field(
            max_length=8, json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
        ),
    ] = Field(default_factory=list)
    """The steps of the work."""
    last_failure: TrainingFailure | None = None
    """What went wrong."""
    output: OutputStatus | None = None
    """The published model."""
    conditions: Conditions = Field(default_factory=list)
    """Succeeded: Unknown until the end, then True or False. Running. CapacityAvailable: False with the scheduler's
    words. Stalled: somebody has to change something."""
