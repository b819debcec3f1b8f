"""Every pod of ours is let into a namespace of the `restricted` Pod Security level: the real admission plugin says so.

GPUs are no exception: device plugins give a container its devices without any privilege. What a user adds with
podTemplate is the user's to make fit.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from cluster import Cluster, ClusterError
from moorage.cli import render_all
from support import cases, deploy

CASES = dict(cases.cases())
# A container that the user's podTemplate brings along, and that says nothing of its security.
USERS_OWN = {"golden-podtemplate": "proxy"}


@pytest.fixture(scope="module")
def restricted(api: Cluster) -> Iterator[str]:
    with deploy.namespace(api, "restricted") as name:
        api.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
        api.kubectl("create", "serviceaccount", "vision", "-n", name)
        for account in ("default", "vision"):
            found = lambda account=account: deploy.get(api, "serviceaccount", account, name)  # noqa: E731
            deploy.eventually(found, 20, f"the service account {account}")
        yield name


def pod(name: str, template: dict[str, Any]) -> dict[str, Any]:
    spec = {key: value for key, value in template["spec"].items() if key != "priorityClassName"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {**template["metadata"], "name": name}, "spec": spec}


def templates(name: str) -> list[dict[str, Any]]:
    """A pod of each child that has pods. A Deployment's pods restart always, which is the API's own default."""
    made = [m for m in render_all(CASES[name], cases.DEFAULTS) if m["kind"] in ("Deployment", "Job")]
    return [pod(f"{m['kind']}-{m['metadata']['name']}".lower(), m["spec"]["template"]) for m in made]


def admit(api: Cluster, namespace: str, *pods: dict[str, Any]) -> str:
    together = {"apiVersion": "v1", "kind": "List", "items": pods}
    return api.kubectl("create", "--dry-run=server", "-n", namespace, "-f", "-", input=json.dumps(together))


def test_the_plugin_is_there_and_refuses(api: Cluster, restricted: str) -> None:
    plain = pod("plain", {"metadata": {}, "spec": {"containers": [{"name": "a", "image": "a"}]}})
    with pytest.raises(ClusterError, match="violates PodSecurity"):
        admit(api, restricted, plain)


@pytest.mark.parametrize("name", CASES)
def test_pods_of_models_and_trainings(api: Cluster, restricted: str, name: str) -> None:
    pods = templates(name)
    assert pods
    if name in USERS_OWN:
        with pytest.raises(ClusterError, match="violates PodSecurity") as refused:
            admit(api, restricted, *pods)
        assert f'container "{USERS_OWN[name]}"' in str(refused.value)
        assert "containers" not in str(refused.value).split("violates PodSecurity")[1], "ours must not be blamed"
        for each in pods:
            each["spec"]["containers"] = [c for c in each["spec"]["containers"] if c["name"] != USERS_OWN[name]]
    assert admit(api, restricted, *pods).count("created") == len(pods)


def test_the_operators_own_pods(api: Cluster, restricted: str) -> None:
    rendered = api.helm("template", deploy.RELEASE, str(deploy.ROOT / "charts/moorage"), "--namespace", restricted)
    manifests = [m for m in yaml.safe_load_all(rendered) if m]
    (operator,) = (m["spec"]["template"] for m in manifests if m["kind"] == "Deployment")
    operator["spec"]["serviceAccountName"] = "default"  # the plugin asks nothing of accounts
    (test,) = (m for m in manifests if m["kind"] == "Pod")
    assert admit(api, restricted, pod("operator", operator), pod("helm-test", test)).count("created") == 2
