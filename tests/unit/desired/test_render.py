"""`moorage render`: what the operator would make, without a cluster."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from moorage.cli import app

TRAIN_AND_SERVE = """
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: models}
---
apiVersion: moorage.dev/v1alpha1
kind: TrainingJob
metadata: {name: digits, labels: {model: digits}}
spec:
  trainer: {script: {command: [python, train.py]}}
  output: {uri: pvc://models/digits/1}
---
apiVersion: moorage.dev/v1alpha1
kind: ModelDeployment
metadata: {name: digits}
spec:
  model: {fromTrainingJobs: {matchLabels: {model: digits}}}
  runtime: {torch: {}}
"""


def render(text: str, *options: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["render", "-", *options], input=text)
    return result.exit_code, result.stdout, result.stderr


def test_children_of_all_resources_of_a_file() -> None:
    """Training has not run; what it is to make stands for what it made."""
    code, out, _ = render(TRAIN_AND_SERVE, "--torch-image", "mine:1")
    children = list(yaml.safe_load_all(out))
    assert code == 0
    assert [child["kind"] for child in children] == ["Service", "Job", "Service", "Deployment"]
    container = children[-1]["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == "mine:1"
    assert {"name": "MOORAGE_MODEL_PATH", "value": "/mnt/models/digits/1"} in container["env"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("model: digits}}}", "model: cars}}}"), "no TrainingJob with the labels model=cars"),
        (("torch: {}", "torch: {batch: 1}"), "ModelDeployment digits: spec.runtime.torch.batch: extra inputs"),
        (("kind: ModelDeployment", "kind: ModelDeploymnt"), "there is no kind ModelDeploymnt"),
        (("runtime: {torch: {}}", "runtime: {"), "while parsing"),
    ],
)
def test_what_is_wrong_is_said(change: tuple[str, str], words: str) -> None:
    code, out, err = render(TRAIN_AND_SERVE.replace(*change))
    assert (code, out) == (1, "")
    assert words in err


def test_crds_into_a_folder(tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["crds", "--output", str(tmp_path / "new")]).exit_code == 0
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "Kustomization",
        "modeldeployments.yaml",
        "trainingjobs.yaml",
    ]


def test_crds_are_printed() -> None:
    result = CliRunner().invoke(app, ["crds"])
    assert len(list(yaml.safe_load_all(result.stdout))) == 2
