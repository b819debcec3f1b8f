"""helm, and a chart rendered once for each set of values."""

import json
import subprocess

import pytest
import yaml

from chart.rendered import CHART, Helm, Manifest, Refused, Render, Rendered
from cluster import tools
from cluster.progress import Progress


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    binary = tools.helm(Progress())
    home = tmp_path_factory.mktemp("helm")
    # A home of its own: nothing of the user's plugins, repositories or kubeconfig may matter.
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin", "KUBECONFIG": "/nonexistent"}

    def run(*args: str, input: str | None = None) -> str:
        done = subprocess.run([binary, *args], input=input, capture_output=True, text=True, timeout=60, env=environment)
        if done.returncode:
            raise Refused(done.stdout + done.stderr)
        return done.stdout

    return run


@pytest.fixture(scope="session")
def render(helm: Helm) -> Render:
    cache: dict[str, Rendered] = {}

    def run(values: Manifest | None = None, release: str = "moorage") -> Rendered:
        key = json.dumps([release, values], sort_keys=True)
        if key not in cache:
            text = helm(
                "template", release, str(CHART), "--namespace", "moorage-system", "--values", "-",
                input=yaml.safe_dump(values or {}),
            )  # fmt: skip
            cache[key] = Rendered(tuple(m for m in yaml.safe_load_all(text) if m))
        return cache[key]

    return run
