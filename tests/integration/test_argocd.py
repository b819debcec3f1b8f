"""Argo CD's own engine syncs models and the chart, twice: then nothing differs, and no child is pruned.

Applications are tracked by the label app.kubernetes.io/instance, Argo CD's older way and the harder one: children of a
ModelDeployment carry that label too.
"""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from argocd.lua import EXAMPLES, compiled
from cluster import Cluster, binaries
from cluster.progress import Progress
from moorage.cli import dump
from support import deploy
from support.api_tier import apply_crds
from support.operator_process import ROOT, OperatorProcess
from support.resources import model_deployment, without_volumes

KINDS = ("ModelDeployment", "TrainingJob")
Sync = Callable[..., dict[str, Any]]


@pytest.fixture
def sync(api: Cluster, ns: str, tmp_path: Path) -> Sync:
    """What the engine says of one sync: `differs` before, `synced`, what is `left`, and `health`."""
    program = binaries.ensure(["gitops"], Progress()).path("gitops")
    scripts = ",".join(f"{kind}={EXAMPLES / kind / 'health.lua'}" for kind in KINDS)

    def run(manifests: list[dict[str, Any]], *, app: str, server_side: bool) -> dict[str, Any]:
        file = tmp_path / "app.yaml"
        file.write_text(dump(*manifests))
        options = [f"-kubeconfig={api.kubeconfig}", f"-namespace={ns}", f"-app={app}", f"-health={scripts}"]
        done = subprocess.run(
            [program, *options, f"-server-side={server_side}".lower(), str(file)],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-4000:]
        return dict(json.loads(done.stdout))

    return run


def quickstart(ns: str) -> list[dict[str, Any]]:
    """As the Application `digits` of examples/argocd has it, in a namespace of the test's own."""
    files = sorted((ROOT / "examples/quickstart").glob("*.yaml"))
    found = [doc for file in files for doc in yaml.safe_load_all(file.read_text()) if doc]
    for doc in found:
        doc["metadata"]["namespace"] = ns
    return found


def refused(result: dict[str, Any]) -> dict[str, str]:
    return {name: said for name, said in result["synced"].items() if not said.startswith("Synced: ")}


@pytest.mark.parametrize("server_side", [True, False], ids=["server-side", "client-side"])
def test_models_show_no_drift(api: Cluster, operator: OperatorProcess, ns: str, sync: Sync, server_side: bool) -> None:
    app = ns[:40].rstrip("-")
    ready = model_deployment(app, **without_volumes())
    manifests = [*quickstart(ns), {**ready, "metadata": {**ready["metadata"], "namespace": ns}}]
    first = sync(manifests, app=app, server_side=server_side)
    assert len(first["differs"]) == len(manifests), "nothing was there before"
    assert refused(first) == {}
    assert first["left"] == []

    deploy.wait_for_condition(api, "mdep", app, "Ready", namespace=ns)
    children = {kind: deploy.get(api, kind, app, ns) for kind in ("deployment", "service")}
    resource = deploy.get(api, "mdep", app, ns)
    second = sync(manifests, app=app, server_side=server_side)
    assert (second["differs"], second["left"], refused(second)) == ([], [], {})
    for kind, before in children.items():
        now = deploy.get(api, kind, app, ns)
        assert before and now and now["metadata"]["uid"] == before["metadata"]["uid"], "Argo CD pruned it"
    after = deploy.get(api, "mdep", app, ns)
    assert resource and after and after["metadata"]["generation"] == resource["metadata"]["generation"]
    assert second["health"][f"ModelDeployment/{app}"]["status"] == "Healthy"
    assert second["health"][f"ModelDeployment/{app}"] == compiled("ModelDeployment")(after)


@pytest.fixture
def chart(api: Cluster, ns: str) -> Iterator[list[dict[str, Any]]]:
    """The chart as Argo CD renders it; what is not in the namespace is taken away again."""
    text = api.helm("template", ns, str(ROOT / "charts/moorage"), "--namespace", ns)
    manifests = [doc for doc in yaml.safe_load_all(text) if doc]
    # Helm's tests are no part of an Application.
    yield [doc for doc in manifests if "helm.sh/hook" not in doc["metadata"].get("annotations", {})]
    for doc in manifests:
        if doc["kind"] in ("ClusterRole", "ClusterRoleBinding"):
            api.kubectl("delete", doc["kind"], doc["metadata"]["name"], "--ignore-not-found")
    apply_crds(api)


def test_the_chart_shows_no_drift(ns: str, sync: Sync, chart: list[dict[str, Any]]) -> None:
    first = sync(chart, app=ns, server_side=True)
    assert refused(first) == {}
    assert first["left"] == []
    second = sync(chart, app=ns, server_side=True)
    assert (second["differs"], second["left"], refused(second)) == ([], [], {})
