"""The two CustomResourceDefinitions, made from the pydantic models: the files under crds/ and the chart's are these."""

from typing import Any

from moorage.api.modeldeployment import ModelDeployment
from moorage.api.modeldeployment_status import ModelDeploymentStatus
from moorage.api.names import GROUP, MAX_NAME, VERSION
from moorage.api.schema import structural
from moorage.api.trainingjob import TrainingJob
from moorage.api.trainingjob_status import TrainingJobStatus
from moorage.api.types import Model, Resource, cel

Manifest = dict[str, Any]

_NAME_RULES = [
    cel(
        f"self.metadata.name.size() <= {MAX_NAME}",
        f"metadata.name may have at most {MAX_NAME} characters, as names of pods and Services are made from it",
    ),
    cel(
        "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        "metadata.name becomes the name of a Service: begin with a letter, then lower-case letters, digits and '-'",
    ),
]


def _condition(type: str, field: str = "status") -> str:
    return f".status.conditions[?(@.type=='{type}')].{field}"


def _column(name: str, path: str, description: str, *, type: str = "string", wide: bool = False) -> Manifest:
    column: Manifest = {"name": name, "type": type, "jsonPath": path, "description": description}
    return {**column, "priority": 1} if wide else column


_AGE = _column("Age", ".metadata.creationTimestamp", "Since when it exists", type="date")

_MODEL_COLUMNS = [
    _column("Ready", _condition("Ready"), "Whether all replicas of the current generation take requests"),
    _column("Replicas", ".status.replicasSummary", "Ready and desired replicas"),
    _column("Model", ".status.model.version", "Version of the model"),
    _column("Runtime", ".status.runtime", "What serves it"),
    _AGE,
    _column("URL", ".status.url", "Where it answers inside the cluster", wide=True),
    _column("Reason", _condition("Ready", "reason"), "Why it is ready or not", wide=True),
]

_TRAINING_COLUMNS = [
    _column("Succeeded", _condition("Succeeded"), "Unknown until the end, then True or False"),
    _column("Reason", _condition("Succeeded", "reason"), "What it does, or why it failed"),
    _column("Workers", ".status.workersSummary", "Running and wanted workers"),
    _column("Progress", ".status.progress.summary", "Share of the steps done"),
    _column("ETA", ".status.progress.eta", "Time to go"),
    _AGE,
]


def crds() -> list[Manifest]:
    return [
        _crd(
            ModelDeployment,
            ModelDeploymentStatus,
            plural="modeldeployments",
            short="mdep",
            categories=["moorage", "all"],
            columns=_MODEL_COLUMNS,
            scale={
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        ),
        _crd(
            TrainingJob,
            TrainingJobStatus,
            plural="trainingjobs",
            short="tjob",
            categories=["moorage"],
            columns=_TRAINING_COLUMNS,
        ),
    ]


def _crd(
    kind: type[Resource],
    status: type[Model],
    *,
    plural: str,
    short: str,
    categories: list[str],
    columns: list[Manifest],
    scale: Manifest | None = None,
) -> Manifest:
    schema = structural(kind)
    spec = schema["properties"]["spec"]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{plural}.{GROUP}",
            "labels": {"app.kubernetes.io/name": "moorage", "app.kubernetes.io/part-of": "moorage"},
        },
        "spec": {
            "group": GROUP,
            "names": {
                "kind": kind.__name__,
                "listKind": f"{kind.__name__}List",
                "plural": plural,
                "singular": kind.__name__.lower(),
                "shortNames": [short],
                "categories": categories,
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {
                        "openAPIV3Schema": {
                            "description": schema["description"],
                            "type": "object",
                            "required": ["spec"],
                            "properties": {
                                "apiVersion": {"type": "string", "description": f"{GROUP}/{VERSION}"},
                                "kind": {"type": "string", "description": kind.__name__},
                                "metadata": {"type": "object"},
                                "spec": spec,
                                "status": structural(status),
                            },
                            "x-kubernetes-validations": _NAME_RULES,
                        }
                    },
                    "additionalPrinterColumns": columns,
                    "subresources": {"status": {}, **({"scale": scale} if scale else {})},
                }
            ],
        },
    }
