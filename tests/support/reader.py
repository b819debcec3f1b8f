"""Objects of the kinds that the operator knows, read in this process: tests look all the time, and kubectl is a
program to start for each look."""

import json
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3
from kubernetes.client import ApiClient
from kubernetes.config import new_client_from_config

from cluster import Cluster, ClusterError
from moorage.kube.kinds import BY_KIND, Kind

Object = dict[str, Any]

_SHORT = {
    "ModelDeployment": "mdep", "TrainingJob": "tjob", "Deployment": "deploy", "Service": "svc",
    "Event": "events.events.k8s.io",
}  # fmt: skip
# Plain `events` are another group's for kubectl.
KINDS: dict[str, Kind] = {
    name: kind
    for kind in BY_KIND.values()
    for name in (kind.plural, kind.kind.lower(), _SHORT.get(kind.kind, ""))
    if name not in ("events", "event", "")
}
"""By the names that kubectl takes, too."""


def get(cluster: Cluster, kind: str, name: str, namespace: str) -> Object | None:
    """The object, or None when there is none; ClusterError when it cannot be had."""
    status, body = _request(cluster, KINDS[kind].path(namespace, name))
    if status == 404 and (body.get("details") or {}).get("name"):
        return None
    return _good(status, body)


def items(cluster: Cluster, kind: str, namespace: str, selector: str = "") -> list[Object]:
    query = f"?{urlencode({'labelSelector': selector})}" if selector else ""
    found = _good(*_request(cluster, KINDS[kind].path(namespace) + query))
    # In a list nobody says what each of its objects is.
    said = {"apiVersion": found["apiVersion"], "kind": KINDS[kind].kind}
    return [{**said, **item} for item in found["items"]]


def _good(status: int, body: Object) -> Object:
    if status >= 400:
        raise ClusterError(f"the API server answers {status}: {body.get('message') or body}")
    return body


def _request(cluster: Cluster, path: str) -> tuple[int, Object]:
    client = _client(cluster.kubeconfig, cluster.kubeconfig.stat().st_mtime_ns)
    asked = client.param_serialize("GET", path, auth_settings=["BearerToken"])
    try:
        answer = client.call_api(*asked, _request_timeout=60)
        answer.read()
    except urllib3.exceptions.HTTPError as error:
        raise ClusterError(f"the API server cannot be asked for {path}: {error}") from error
    try:
        return answer.status, json.loads(answer.data)
    except ValueError:
        return answer.status, {"message": answer.data.decode(errors="replace")}


@cache
def _client(kubeconfig: Path, written: int) -> ApiClient:
    """`written`: a cluster that is made anew has another kubeconfig in the same place."""
    return new_client_from_config(str(kubeconfig))
