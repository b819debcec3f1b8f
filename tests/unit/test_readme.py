"""README and docs say nothing that is not so: their make targets exist, their files exist, their manifests parse."""

import re
from pathlib import Path

import pytest
import yaml

from moorage.api.modeldeployment import ModelDeployment
from moorage.api.trainingjob import TrainingJob

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.M))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_make_targets_exist(page: Path) -> None:
    named = set(re.findall(r"(?:`|^)make ([a-z][a-z-]+)", page.read_text(), re.M))
    assert named <= TARGETS


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)", page.read_text()) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


def test_the_readmes_manifests_are_valid() -> None:
    kinds = {"TrainingJob": TrainingJob, "ModelDeployment": ModelDeployment}
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    documents = [doc for block in blocks for doc in yaml.safe_load_all(block)]
    assert {doc["kind"] for doc in documents} == set(kinds)
    for doc in documents:
        doc["metadata"].setdefault("namespace", "default")
        kinds[doc["kind"]].parse(doc, strict=True)


def test_the_readmes_helm_values_exist() -> None:
    chart = (ROOT / "charts/moorage/values.yaml").read_text()
    for value in re.findall(r"--set ([a-zA-Z.]+)=", (ROOT / "README.md").read_text()):
        found = yaml.safe_load(chart)
        for key in value.split("."):
            assert key in found, value
            found = found[key]
