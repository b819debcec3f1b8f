"""Several models in one server on a real cluster: the example of it, and one of them that is not there."""

from typing import Any

import httpx
import pytest
import yaml

from cluster import Cluster
from support import deploy

FOLDER = deploy.ROOT / "examples/several"


def said(mdep: dict[str, Any], condition: str) -> tuple[str, str, str]:
    (found,) = (c for c in mdep["status"]["conditions"] if c["type"] == condition)
    return found["status"], found["reason"], found["message"]


def ask(client: httpx.Client, name: str, value: float) -> httpx.Response:
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [value]}]}
    return client.post(f"/v2/models/{name}/infer", json=body)


@pytest.mark.timeout(400)
def test_each_is_asked_by_its_name_and_the_one_that_is_missing_is_told(moorage: Cluster, ns: str) -> None:
    moorage.kubectl("apply", "-n", ns, "-f", str(FOLDER / "training.yaml"))
    serving = yaml.safe_load((FOLDER / "serving.yaml").read_text())
    serving["spec"]["runtime"]["torch"]["models"].append({"name": "lorry"})
    for name in ("distance", "speed"):
        deploy.wait_for_condition(moorage, "tjob", name, "Succeeded", namespace=ns, timeout=150)
    moorage.kubectl("apply", "--server-side", "-n", ns, "-f", "-", input=yaml.safe_dump(serving))
    deploy.wait_for_condition(moorage, "mdep", "vehicles", "Ready", namespace=ns, timeout=150)

    def told() -> bool:
        found = deploy.get(moorage, "mdep", "vehicles", ns)
        return found is not None and said(found, "ModelLoaded")[0] == "False"

    deploy.eventually(told, 30, "the status tells of the one that is missing")
    status, reason, message = said(deploy.get(moorage, "mdep", "vehicles", ns) or {}, "ModelLoaded")
    assert (status, reason) == ("False", "ModelNotFound")
    assert "1 of 3 models could not be loaded" in message
    assert "lorry (ModelNotFound)" in message

    with (
        moorage.door(ns, "vehicles", 8080) as address,
        httpx.Client(base_url=f"http://{address}", timeout=30) as client,
    ):
        distance, speed = (ask(client, name, value).json() for name, value in (("distance", 21.0), ("speed", 64.0)))
        assert (distance["model_name"], speed["model_name"], speed["model_version"]) == ("distance", "speed", "2")
        assert 40 < distance["outputs"][0]["data"][0] < 90
        assert 10 < speed["outputs"][0]["data"][0] < 30
        assert "'lorry' cannot be loaded: ModelNotFound" in ask(client, "lorry", 1.0).json()["error"]

    moorage.kubectl("apply", "--server-side", "-n", ns, "-f", str(FOLDER / "serving.yaml"))
    deploy.wait_for_condition(moorage, "mdep", "vehicles", "Ready", namespace=ns, timeout=150)
    deploy.eventually(
        lambda: said(deploy.get(moorage, "mdep", "vehicles", ns) or {}, "ModelLoaded")[0] == "True",
        30,
        "all are loaded",
    )
    assert deploy.drift(moorage, "-n", ns, "-f", str(FOLDER / "serving.yaml"), "--server-side") == ""
