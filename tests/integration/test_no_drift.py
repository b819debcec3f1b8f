"""What users applied is what is in the cluster: the operator writes to no field of theirs, so nobody sees a difference.

Argo CD compares the same way.
"""

import json

import pytest

from cluster import Cluster
from support import deploy
from support.operator_process import OperatorProcess
from support.resources import model_deployment, training_job, without_volumes


@pytest.mark.parametrize("way", [(), ("--server-side",)], ids=["client side", "server side"])
def test_manifests_show_no_drift(api: Cluster, operator: OperatorProcess, ns: str, apply, way: tuple[str, ...]) -> None:
    """Also after replicas were scaled by hand, which the manifest leaves open."""
    scaling = {"minReplicas": 2, "maxReplicas": 3, "metrics": [{"type": "Concurrency", "target": "4"}]}
    manifests = [
        model_deployment("plain", **without_volumes()),
        model_deployment("triton", **without_volumes(runtime={"triton": {}}, replicas=2)),
        model_deployment("scaled", **without_volumes(scaling=scaling)),
        training_job("done", data={"uri": "https://data.example/x.csv"}, output={"uri": "s3://models/done"}),
    ]
    apply(*manifests, options=way)
    api.kubectl("scale", "mdep", "plain", "-n", ns, "--replicas=3")
    for name in ("plain", "triton", "scaled"):
        deploy.wait_for_condition(api, "mdep", name, "Ready", namespace=ns)
    deploy.wait_for_condition(api, "tjob", "done", "Succeeded", namespace=ns)
    together = json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests})
    assert deploy.drift(api, *way, "-n", ns, "-f", "-", input=together) == ""
