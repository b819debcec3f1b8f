"""Metadata of children: labels, the owner, and the frame every manifest has."""

from typing import Any

from moorage.api.modeldeployment import ModelDeployment
from moorage.api.names import API_VERSION, MODEL_LABEL, TRAINING_LABEL
from moorage.api.trainingjob import TrainingJob

MANAGED_BY = "app.kubernetes.io/managed-by"

Manifest = dict[str, Any]
Owner = ModelDeployment | TrainingJob


def selector(owner: Owner) -> dict[str, str]:
    """The only label that selects. It never changes: a Deployment's selector is immutable."""
    key = MODEL_LABEL if isinstance(owner, ModelDeployment) else TRAINING_LABEL
    return {key: owner.metadata.name}


def labels(owner: Owner, version: str | None = None) -> dict[str, str]:
    serving = isinstance(owner, ModelDeployment)
    return {
        "app.kubernetes.io/name": "model-deployment" if serving else "training-job",
        "app.kubernetes.io/instance": owner.metadata.name,
        **({"app.kubernetes.io/version": version} if version else {}),
        "app.kubernetes.io/component": "server" if serving else "trainer",
        "app.kubernetes.io/part-of": "moorage",
        MANAGED_BY: "moorage",
        **selector(owner),
    }


def child(owner: Owner, api_version: str, kind: str, name: str, *, version: str | None = None, **body: Any) -> Manifest:
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": owner.metadata.namespace,
            "labels": labels(owner, version),
            "ownerReferences": [
                {
                    "apiVersion": API_VERSION,
                    "kind": type(owner).__name__,
                    "name": owner.metadata.name,
                    "uid": owner.metadata.uid,
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        **body,
    }
