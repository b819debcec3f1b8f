"""TrainingJob: train one model once, on a fixed number of workers, and publish it."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from moorage.api.conditions import find
from moorage.api.types import (
    ATOMIC,
    BUCKET,
    CLAIM,
    NO_DOTS,
    Command,
    Decimal,
    Env,
    Free,
    Image,
    Model,
    Resource,
    Resources,
    SecretRef,
    ServerFormat,
    Uri,
    cel,
    rules,
)

Column = Annotated[str, Field(min_length=1, max_length=256)]


class RecipeModel(Model):
    """Which network is trained."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            cel(
                "self.type == 'MLP' || (!has(self.hiddenSizes) && !has(self.dropout))",
                "hiddenSizes and dropout belong to type MLP: leave them out with Linear",
            )
        )
    )

    type: Literal["MLP", "Linear"]
    """MLP (fully connected layers) or Linear (none between input and output)."""
    hidden_sizes: (
        Annotated[
            list[Annotated[int, Field(ge=1, le=65536)]], Field(min_length=1, max_length=32, json_schema_extra=ATOMIC)
        ]
        | None
    ) = None
    """Width of each hidden layer of an MLP. Default [128, 64]."""
    dropout: Decimal | None = None
    """Share of hidden values that are dropped while training, for example "0.1". Default 0."""


class Recipe(Model):
    """Supervised learning on a table, without a line of code."""

    task: Literal["Classification", "Regression"]
    """Classification (the target is a class) or Regression (the target is a number)."""
    model: RecipeModel = Field(default_factory=lambda: RecipeModel(type="MLP"))
    """Which network. Default: an MLP."""
    features: Annotated[list[Column], Field(max_length=4096, json_schema_extra=ATOMIC)] = Field(default_factory=list)
    """Input: the one array of an .npz, or columns of .csv or .parquet. Default: everything but the target."""
    target: Column
    """What is to be predicted: an array of the .npz, or a column. Quote it in YAML where it is "y", which else
    means true."""
    epochs: Annotated[int, Field(ge=1, le=1_000_000)] = 30
    """Passes over the training data. Default 30."""
    batch_size: Annotated[int, Field(ge=1, le=1 << 24)] = 64
    """Samples for each step, split over all workers. Default 64."""
    learning_rate: Decimal = "0.003"
    """Step width of the optimiser (AdamW), in quotes. Default "0.003"."""
    weight_decay: Decimal = "0.0001"
    """Pull of the weights to zero, in quotes. Default "0.0001"."""
    validation_fraction: Decimal = "0.1"
    """Share of the data that is kept for measuring, in quotes. Default "0.1"."""
    seed: Annotated[int, Field(ge=0, le=(1 << 31) - 1)] = 0
    """Start of all random choices. Default 0."""


class Script(Model):
    """Any program that torchrun can start, unchanged."""

    image: Image | None = None
    """The image with the program, with Python and torch in it. Default: the operator's torch image."""
    command: Annotated[Command, Field(min_length=1)]
    """What torchrun starts, for example [python, train.py, --lr=0.1]. It finds MOORAGE_DATA_DIR and
    MOORAGE_OUTPUT_DIR."""
    env: Env = Field(default_factory=list)
    """Environment variables. Default: none."""


class Trainer(Model):
    """How the model is trained: exactly one block."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            cel(
                "[has(self.recipe), has(self.script)].exists_one(x, x)",
                "set exactly one of recipe (all in YAML) and script (a program of your own)",
            )
        )
    )

    recipe: Recipe | None = None
    """Supervised learning on a table, all in YAML."""
    script: Script | None = None
    """A program of your own."""


class Data(Model):
    """Where the training data is."""

    uri: Annotated[
        Uri,
        Field(
            json_schema_extra=rules(
                cel(
                    "self.matches('^(pvc|s3|http|https|configmap)://.+')",
                    "write pvc://CLAIM/PATH, s3://BUCKET/KEY, http(s)://HOST/PATH or configmap://NAME/KEY",
                ),
                NO_DOTS,
                CLAIM,
                BUCKET,
                cel(
                    "!self.startsWith('configmap://') || "
                    "self.matches('^configmap://[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[-._a-zA-Z0-9]+$')",
                    "write configmap://NAME/KEY, with a ConfigMap of the same namespace and one of its keys",
                ),
            )
        ),
    ]
    """pvc://CLAIM/PATH and configmap://NAME/KEY are mounted; s3://BUCKET/KEY and http(s)://HOST/PATH are copied to
    each worker."""
    secret_ref: SecretRef | None = None
    """Secret with the store's credentials under the AWS names, or HTTP_BEARER_TOKEN. Default: none."""


class Output(Model):
    """Where the model goes."""

    uri: Annotated[
        Uri,
        Field(
            json_schema_extra=rules(
                cel(
                    "self.matches('^(pvc|s3)://[^/]+/.*[^/]$')",
                    "write pvc://CLAIM/PATH or s3://BUCKET/KEY, with the path of a folder that is to be made",
                ),
                NO_DOTS,
                CLAIM,
            )
        ),
    ]
    """The folder to make, pvc://CLAIM/PATH or s3://BUCKET/KEY. It appears in one step, when the model is complete."""
    format: ServerFormat = "TorchExport"
    """What a ModelDeployment is told that serves it (see its model.format). A recipe exports TorchExport or
    TorchScript. Default TorchExport."""
    secret_ref: SecretRef | None = None
    """Secret with the store's credentials under the AWS names. Default: none."""


def _fixed(field: str, *, optional: bool = False) -> dict[str, str]:
    same = f"self.{field} == oldSelf.{field}"
    if optional:
        # On the parent: a rule on an optional field is passed by removing the field and setting it again.
        same = f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || {same})"
    message = f"{field} cannot be changed, a TrainingJob is one run: create another one, or delete this one first"
    return cel(same, message)


class TrainingJobSpec(Model):
    """What is wanted. After creation resources, podTemplate (both start the training anew while it is not finished),
    activeDeadlineSeconds and ttlSecondsAfterFinished may change."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            _fixed("workers"),
            _fixed("trainer"),
            _fixed("processesPerWorker", optional=True),
            _fixed("data", optional=True),
            _fixed("output", optional=True),
            cel(
                "!has(self.trainer.recipe) || (has(self.data) && has(self.output))",
                "a recipe needs data (what to learn from) and output (where the model goes)",
            ),
            cel(
                "!has(self.trainer.recipe) || !has(self.output) || !has(self.output.format) || "
                "self.output.format in ['TorchExport', 'TorchScript']",
                "a recipe exports TorchExport or TorchScript: the other formats are what a script may leave",
                fieldPath=".output.format",
            ),
            cel(
                "!has(self.data) || !has(self.output) || !has(self.data.secretRef) || !has(self.output.secretRef) || "
                "self.data.secretRef.name == self.output.secretRef.name",
                "data.secretRef and output.secretRef must name the same Secret: both become environment of the trainer",
            ),
        )
    )

    workers: Annotated[int, Field(ge=1, le=1000)] = 1
    """Pods that train together. Default 1."""
    processes_per_worker: Annotated[int, Field(ge=1, le=64)] | None = None
    """Processes torchrun starts in each pod. Default: one for each GPU, else 1."""
    resources: Resources = Field(default_factory=Resources)
    """What each pod gets: GPUs, CPU, memory."""
    trainer: Trainer
    """How the model is trained: exactly one of recipe and script."""
    data: Data | None = None
    """Where the training data is. A script may do without."""
    output: Output | None = None
    """Where the model goes. A script may do without."""
    active_deadline_seconds: Annotated[int, Field(ge=1, le=31_536_000)] | None = None
    """Stop and fail after so many seconds. Default: never."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=31_536_000)] | None = None
    """Remove the pods so many seconds after the end. The TrainingJob and its status stay. Default: the pods stay."""
    pod_template: Free | None = None
    """Anything else about the pods, as {metadata, spec} of a pod template. Merged last: containers, init containers,
    volumes, env, ports and volume mounts by their key, tolerations and envFrom added, everything else replaced; null
    removes. The trainer's container is named "trainer"."""

    @property
    def processes(self) -> int:
        return self.processes_per_worker or max(1, self.resources.gpus)


class TrainingJob(Resource):
    """Trains one model once on a number of workers and publishes it."""

    spec: TrainingJobSpec
    """What is wanted."""
    status: dict[str, Any] = Field(default_factory=dict)
    """What is."""

    @property
    def finished(self) -> bool:
        """Ended for good. A finished TrainingJob is never run again, also when its Job is gone."""
        succeeded = find(self.status.get("conditions"), "Succeeded")
        return bool(self.status.get("completionTime")) and succeeded is not None and succeeded["status"] != "Unknown"
