"""Small builders of the two resources, so that a test shows only what it is about. None leaves a field out."""

from typing import Any

Manifest = dict[str, Any]
API_VERSION = "moorage.dev/v1alpha1"


def model_deployment(name: str = "digits", *, labels: dict[str, str] | None = None, **spec: Any) -> Manifest:
    """Torch serves a model from a claim, on one pod, unless `spec` says otherwise."""
    return {
        "apiVersion": API_VERSION,
        "kind": "ModelDeployment",
        "metadata": {"name": name, **({"labels": labels} if labels else {})},
        "spec": _given({"model": {"uri": "pvc://models/digits/1"}, "runtime": {"torch": {}}, **spec}),
    }


def training_job(name: str = "digits", *, labels: dict[str, str] | None = None, **spec: Any) -> Manifest:
    """A recipe on one worker, unless `spec` says otherwise."""
    return {
        "apiVersion": API_VERSION,
        "kind": "TrainingJob",
        "metadata": {"name": name, **({"labels": labels} if labels else {})},
        "spec": _given(
            {
                "trainer": {"recipe": {"task": "Classification", "target": "y"}},
                "data": {"uri": "configmap://digits/train.csv"},
                "output": {"uri": f"pvc://models/{name}/1"},
                **spec,
            }
        ),
    }


def without_volumes(**spec: Any) -> Manifest:
    """A ModelDeployment whose pods need no claim: where claims cannot be bound, these are scheduled."""
    return {"model": {"uri": "https://models.example/digits.pt2"}, **spec}


def _given(spec: Manifest) -> Manifest:
    return {field: value for field, value in spec.items() if value is not None}
