"""What both resources are made of: the base model, scalars with their Kubernetes schema, and the blocks they share.

The docstring under a field is what `kubectl explain` prints. Rules that cross fields are CEL, beside the fields they
bind, and say what to write instead. Defaults are written into the text too, as explain does not show them.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo

from moorage.api.facts import InvalidSpec


def cel(rule: str, message: str, **more: str) -> dict[str, str]:
    return {"rule": rule, "message": message, **more}


def rules(*validations: dict[str, str]) -> dict[str, Any]:
    return {"x-kubernetes-validations": list(validations)}


class Model(BaseModel):
    """Unknown fields are ignored when reading, so that an older operator can read a newer resource; `strict`
    refuses."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
        frozen=True,
        extra="ignore",
    )


def _text(value: object) -> object:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


_QUANTITY = r"^(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?[0-9]{1,2}))?$"
_DECIMAL = r"^[0-9]+(\.[0-9]+)?([eE]-?[0-9]{1,2})?$"


def _int_or_string(pattern: str) -> WithJsonSchema:
    return WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "pattern": pattern,
            "maxLength": 32,
        }
    )


Quantity = Annotated[str, Field(pattern=_QUANTITY), BeforeValidator(_text), _int_or_string(_QUANTITY)]
Decimal = Annotated[str, Field(pattern=_DECIMAL), BeforeValidator(_text), _int_or_string(_DECIMAL)]
"""Kubernetes has no floats in its API: an integer, or a decimal in quotes."""


def _plain(what: str) -> FieldInfo:
    """A part of a URL's path, as it stands. `what`: in the words of the refusal."""
    rule = cel(
        "self.matches('^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$')",
        f"{what} has letters, digits, '.', '_', '-' and begins and ends with a letter or digit",
    )
    return Field(min_length=1, max_length=63, json_schema_extra=rules(rule))  # type: ignore[no-any-return]


ModelName = Annotated[str, _plain("a model's name")]
ModelVersion = Annotated[str, _plain("a version")]
Text = Annotated[str, Field(max_length=1024)]
Word = Annotated[str, Field(min_length=1, max_length=253)]
LabelValue = Annotated[str, Field(max_length=63)]
Uri = Annotated[str, Field(min_length=1, max_length=1024)]
Image = Annotated[str, Field(min_length=1, max_length=1024)]
ServerFormat = Literal["TorchExport", "TorchScript", "AOTInductor", "ONNX", "Python", "Safetensors"]
"""What the torch server loads."""
Free = Annotated[dict[str, Any], WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True})]
Time = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
ATOMIC = {"x-kubernetes-list-type": "atomic"}
BY_NAME = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}

NO_DOTS = cel(
    "!self.matches('(^|/)[.][.](/|$)')",
    "a uri must not contain '..': write the path from the root",
)
CLAIM = cel(
    "!self.startsWith('pvc://') || self.matches('^pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/.*)?$')",
    "write pvc://CLAIM/PATH, with the name of a PersistentVolumeClaim of the same namespace",
)
BUCKET = cel("!self.startsWith('s3://') || self.matches('^s3://[^/]+/.+')", "write s3://BUCKET/KEY")


class Metadata(Model):
    name: str
    namespace: str = "default"
    uid: str = ""
    generation: int = 0
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None


class SecretRef(Model):
    """A Secret of the same namespace."""

    name: Word
    """Name of the Secret."""


SecretKey = Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9]+$", max_length=253)]


class SecretKeyRef(SecretRef):
    """One entry of a Secret of the same namespace."""

    key: SecretKey = "token"
    """Which entry. Default token."""


class EnvVar(Model):
    """One environment variable."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    """Name of the variable. Names that begin with MOORAGE_ or PET_ are the operator's."""
    value: Annotated[str, Field(max_length=32768)] | None = None
    """Its value. Numbers and booleans in quotes."""
    value_from: Free | None = None
    """Where its value comes from, as in a pod: secretKeyRef, configMapKeyRef, fieldRef or resourceFieldRef."""


RESERVED_ENV = cel(
    "self.all(e, !e.name.startsWith('MOORAGE_') && !e.name.startsWith('PET_'))",
    "names that begin with MOORAGE_ or PET_ are set by the operator: choose another name",
)

Env = Annotated[list[EnvVar], Field(max_length=128, json_schema_extra={**BY_NAME, **rules(RESERVED_ENV)})]
Command = Annotated[list[Annotated[str, Field(max_length=4096)]], Field(max_length=128, json_schema_extra={**ATOMIC})]
Amounts = Annotated[dict[str, Quantity], Field(max_length=16)]


class Resources(Model):
    """What each pod gets."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            cel(
                "!has(self.gpuResource) || (has(self.gpus) && self.gpus > 0)",
                "gpuResource names the device that gpus counts: set gpus too, or leave gpuResource out",
            ),
            cel(
                "!has(self.requests) || !has(self.limits) || self.requests.all(k, !(k in self.limits) || "
                "!quantity(string(self.requests[k])).isGreaterThan(quantity(string(self.limits[k]))))",
                "each request must be at most its limit: raise the limit or lower the request",
            ),
        )
    )

    gpus: Annotated[int, Field(ge=0, le=64)] = 0
    """Whole devices for each pod. Default 0: the CPU."""
    gpu_resource: Annotated[str, Field(pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$", max_length=253)] | None = None
    """The extended resource that `gpus` counts, for example amd.com/gpu. Default: the operator's setting,
    nvidia.com/gpu."""
    requests: Amounts = Field(default_factory=dict)
    """What the scheduler sets aside for each pod, for example cpu: "2", memory: 4Gi. Decimals in quotes. Default:
    none."""
    limits: Amounts = Field(default_factory=dict)
    """What each pod may use at most. Beyond the memory limit it is killed. Default: none."""
    shared_memory: Quantity | None = None
    """Most that /dev/shm may hold, for example 2Gi. It counts as memory of the pod. Default: as much as the pod's
    memory."""


class ConditionStatus(Model):
    """One aspect of the state."""

    type: Annotated[str, Field(max_length=316)]
    """Which aspect."""
    status: Literal["True", "False", "Unknown"]
    """True, False or Unknown. Unknown while on the way, False on failure."""
    reason: Annotated[str, Field(max_length=1024)]
    """Why, as one CamelCase word."""
    message: Annotated[str, Field(max_length=32768)]
    """Why, in words."""
    last_transition_time: Time
    """Since when the status is what it is."""
    observed_generation: int | None = None
    """The generation of the spec that this condition is about."""


Conditions = Annotated[
    list[ConditionStatus],
    Field(max_length=16, json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}),
]


class Failure(Model):
    """What went wrong, as somebody said it."""

    time: Time | None = None
    """When it first happened."""
    reason: Text
    """Why, as one CamelCase word."""
    message: Annotated[str, Field(max_length=32768)]
    """Why, in the words of who said it: the program, the kubelet, the scheduler, the API server."""
    pod: Text | None = None
    """In which pod."""
    container: Text | None = None
    """In which container of the pod."""
    exit_code: int | None = None
    """How the container ended."""


class Resource(Model):
    """What a resource has besides spec and status."""

    metadata: Metadata

    @classmethod
    def parse(cls, obj: dict[str, Any], *, strict: bool = False) -> Self:
        """Read an object of the API server. `strict` refuses unknown fields: for files and tests, not for run time."""
        try:
            # Metadata has fields we do not model; only spec is ours to judge.
            metadata = Metadata.model_validate(obj.get("metadata") or {}, extra="ignore")
            return cls.model_validate(
                {"metadata": metadata, "spec": obj.get("spec") or {}, "status": obj.get("status") or {}},
                extra="forbid" if strict else "ignore",
            )
        except ValidationError as error:
            raise InvalidSpec(describe(error)) from None


def describe(error: ValidationError) -> str:
    """All complaints in one line, each with the path of its field as the user wrote it."""
    return "; ".join(
        f"{'.'.join(str(part) for part in detail['loc'])}: {detail['msg'].lower()}" for detail in error.errors()
    )
