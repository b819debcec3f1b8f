"""The operator's account may do what this table says, and the API server refuses it everything else.

Both ways to install it: over the cluster, and in named namespaces. What each right is for is in the chart's rbac.yaml;
that no right is missing is shown by every other test here, whose operators have these and no others.
"""

import json
import re
import ssl
from base64 import b64decode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from cluster import Cluster
from support import deploy
from support.api_tier import SYSTEM, operator_kubeconfig
from support.resources import model_deployment, without_volumes

Table = dict[tuple[str, str, tuple[str, ...]], set[str]]
"""Verbs by group, resource and names (none: all)."""

CHILD = {"get", "list", "watch", "create", "patch", "delete"}
MODELS: Table = {
    ("moorage.dev", "modeldeployments", ()): {"get", "list", "watch"},
    ("moorage.dev", "trainingjobs", ()): {"get", "list", "watch"},
    ("moorage.dev", "modeldeployments/status", ()): {"patch"},
    ("moorage.dev", "trainingjobs/status", ()): {"patch"},
    ("moorage.dev", "modeldeployments/finalizers", ()): {"update"},
    ("moorage.dev", "trainingjobs/finalizers", ()): {"update"},
    ("apps", "deployments", ()): CHILD,
    ("batch", "jobs", ()): CHILD,
    ("", "services", ()): CHILD,
    ("", "configmaps", ()): CHILD,
    ("policy", "poddisruptionbudgets", ()): CHILD,
    ("monitoring.coreos.com", "podmonitors", ()): CHILD - {"watch"},
    ("", "pods", ()): {"list", "watch"},
    ("apps", "replicasets", ()): {"list", "watch"},
    ("events.k8s.io", "events", ()): {"create", "list", "patch"},
}
ELECTION: Table = {
    ("coordination.k8s.io", "leases", ()): {"create"},
    ("coordination.k8s.io", "leases", ("moorage-operator",)): {"get", "update"},
}

# With what it may do, none of this must be possible. {ns} has models; everything named there exists or need not.
DENIED = """\
GET /api/v1/secrets
GET /api/v1/namespaces/{ns}/secrets
GET /api/v1/namespaces/{ns}/secrets/store
GET /api/v1/namespaces/moorage-system/secrets
POST /api/v1/namespaces/{ns}/secrets
GET /api/v1/namespaces/{ns}/pods/some
POST /api/v1/namespaces/{ns}/pods
PATCH /api/v1/namespaces/{ns}/pods/some
DELETE /api/v1/namespaces/{ns}/pods/some
DELETE /api/v1/namespaces/{ns}/pods
POST /api/v1/namespaces/{ns}/pods/some/exec?command=id
GET /api/v1/namespaces/{ns}/pods/some/exec?command=id
POST /api/v1/namespaces/{ns}/pods/some/attach
POST /api/v1/namespaces/{ns}/pods/some/portforward
GET /api/v1/namespaces/{ns}/pods/some/log
GET /api/v1/namespaces/{ns}/pods/some/proxy
PATCH /api/v1/namespaces/{ns}/pods/some/ephemeralcontainers
POST /api/v1/namespaces/{ns}/pods/some/eviction
POST /api/v1/namespaces/{ns}/pods/some/binding
PATCH /apis/apps/v1/namespaces/{ns}/replicasets/some
DELETE /apis/apps/v1/namespaces/{ns}/deployments
POST /apis/apps/v1/namespaces/{ns}/daemonsets
POST /apis/apps/v1/namespaces/{ns}/statefulsets
GET /api/v1/nodes
PATCH /api/v1/nodes/fake1
PATCH /api/v1/nodes/fake1/status
DELETE /api/v1/nodes/fake1
GET /api/v1/nodes/fake1/proxy
GET /api/v1/namespaces
POST /api/v1/namespaces
DELETE /api/v1/namespaces/{ns}
GET /api/v1/namespaces/{ns}/persistentvolumeclaims
POST /api/v1/persistentvolumes
GET /api/v1/namespaces/{ns}/services/digits/proxy
POST /apis/moorage.dev/v1alpha1/namespaces/{ns}/modeldeployments
PUT /apis/moorage.dev/v1alpha1/namespaces/{ns}/modeldeployments/digits
PATCH /apis/moorage.dev/v1alpha1/namespaces/{ns}/modeldeployments/digits
DELETE /apis/moorage.dev/v1alpha1/namespaces/{ns}/modeldeployments/digits
PATCH /apis/moorage.dev/v1alpha1/namespaces/{ns}/modeldeployments/digits/scale
PUT /apis/moorage.dev/v1alpha1/namespaces/{ns}/modeldeployments/digits/status
PATCH /apis/moorage.dev/v1alpha1/namespaces/{ns}/trainingjobs/digits
DELETE /apis/moorage.dev/v1alpha1/namespaces/{ns}/trainingjobs
POST /apis/rbac.authorization.k8s.io/v1/clusterroles
POST /apis/rbac.authorization.k8s.io/v1/clusterrolebindings
POST /apis/rbac.authorization.k8s.io/v1/namespaces/{ns}/roles
POST /apis/rbac.authorization.k8s.io/v1/namespaces/{ns}/rolebindings
POST /apis/rbac.authorization.k8s.io/v1/namespaces/moorage-system/rolebindings
PATCH /apis/rbac.authorization.k8s.io/v1/clusterroles/{release}
PATCH /apis/rbac.authorization.k8s.io/v1/namespaces/{ns}/roles/{release}
POST /api/v1/namespaces/moorage-system/serviceaccounts/{release}/token
POST /api/v1/namespaces/kube-system/serviceaccounts/default/token
POST /api/v1/namespaces/{ns}/serviceaccounts
POST /apis/authentication.k8s.io/v1/tokenreviews
POST /apis/authorization.k8s.io/v1/subjectaccessreviews
POST /apis/certificates.k8s.io/v1/certificatesigningrequests
POST /apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations
PATCH /apis/apiextensions.k8s.io/v1/customresourcedefinitions/modeldeployments.moorage.dev
GET /apis/coordination.k8s.io/v1/namespaces/moorage-system/leases
PUT /apis/coordination.k8s.io/v1/namespaces/moorage-system/leases/another
GET /apis/coordination.k8s.io/v1/namespaces/kube-system/leases/kube-scheduler
POST /apis/coordination.k8s.io/v1/namespaces/kube-system/leases
GET /metrics
"""
OUTSIDE = """\
GET /apis/moorage.dev/v1alpha1/modeldeployments
GET /apis/apps/v1/deployments
GET /api/v1/configmaps
GET /apis/moorage.dev/v1alpha1/namespaces/default/trainingjobs
GET /apis/apps/v1/namespaces/default/deployments
POST /apis/apps/v1/namespaces/default/deployments
GET /api/v1/namespaces/moorage-system/configmaps
GET /api/v1/namespaces/default/pods
POST /apis/events.k8s.io/v1/namespaces/default/events
"""


@dataclass(frozen=True)
class Account:
    """Somebody who talks to the API server with nothing in between."""

    release: str
    http: httpx.Client

    def ask(self, call: str, body: object = None, **headers: str) -> httpx.Response:
        method, path = call.split()
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        # A body that nothing could be made of: authorization comes first, and a mistake here does no harm.
        content = json.dumps({} if body is None else body)
        return self.http.request(method, path, content=content, headers={"Content-Type": kind, **headers})

    def rights(self, namespace: str) -> Table:
        review = {"kind": "SelfSubjectRulesReview", "apiVersion": "authorization.k8s.io/v1"}
        answer = self.ask(
            "POST /apis/authorization.k8s.io/v1/selfsubjectrulesreviews", {**review, "spec": {"namespace": namespace}}
        )
        assert answer.status_code == 201, answer.text
        status = answer.json()["status"]
        # The node authorizer cannot list rules, and gives none to anybody but kubelets.
        assert not status["incomplete"] or status["evaluationError"].startswith("node authorizer"), status
        found: Table = {}
        for rule in status["resourceRules"]:
            for group in rule.get("apiGroups", []):
                for resource in rule.get("resources", []):
                    key = (group, resource, tuple(rule.get("resourceNames", [])))
                    found.setdefault(key, set()).update(rule["verbs"])
        return found


def account(kubeconfig: Path, release: str) -> Account:
    config = yaml.safe_load(kubeconfig.read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    trust = ssl.create_default_context(cadata=b64decode(cluster["certificate-authority-data"]).decode())
    headers = {"Authorization": f"Bearer {user['token']}"}
    return Account(release, httpx.Client(base_url=cluster["server"], verify=trust, headers=headers, timeout=20))


Install = Callable[..., Account]


@pytest.fixture
def install(api: Cluster, tmp_path: Path) -> Iterator[Install]:
    """The chart's account and rights under a release name of its own, beside those of the other tests."""
    made: list[Account] = []

    def go(release: str, *values: str) -> Account:
        made.append(account(operator_kubeconfig(api, tmp_path, *values, release=release), release))
        return made[-1]

    yield go
    for each in made:
        each.http.close()
        kinds = "clusterrolebindings,clusterroles,rolebindings,roles,serviceaccounts"
        api.kubectl("delete", kinds, "-A", "-l", f"app.kubernetes.io/instance={each.release}")


@pytest.fixture
def anybody(api: Cluster, tmp_path: Path, ns: str) -> Account:
    """An account that nobody gave anything: what everybody may do is no right of the operator's."""
    api.kubectl("create", "serviceaccount", "anybody", "-n", ns)
    config = yaml.safe_load(api.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": api.kubectl("create", "token", "anybody", "-n", ns).strip()}
    path = tmp_path / "anybody.kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return account(path, "anybody")


def beyond(mine: Table, everybodys: Table) -> Table:
    left = {key: verbs - everybodys.get(key, set()) for key, verbs in mine.items()}
    return {key: verbs for key, verbs in left.items() if verbs}


def refused(who: Account, calls: str, ns: str) -> None:
    """Each call is answered with 403, and in the API server's words about rights."""
    wrong = []
    for line in calls.splitlines():
        call = line.format(ns=ns, release=who.release)
        answer = who.ask(call)
        if answer.status_code != 403 or "cannot" not in answer.json()["message"]:
            wrong.append(f"{call}: {answer.status_code} {answer.text[:200]}")
    assert wrong == []


def test_the_denied_calls_are_calls_the_api_server_knows(api: Cluster) -> None:
    """Else a typing error would look like a right that is not there."""
    known: dict[str, set[str]] = {}
    pattern = re.compile(r"/(api/v1|apis/[^/]+/[^/]+)/(?:namespaces/[^/]+/)?([a-z]+)(?:/[^/?]+(?:/([a-z]+))?)?")
    for line in (DENIED + OUTSIDE).splitlines():
        path = line.split()[1].split("?")[0]
        if path == "/metrics":
            continue
        found = pattern.fullmatch(path)
        assert found, path
        version, resource, sub = found.groups()
        if version not in known:
            answer = json.loads(api.kubectl("get", "--raw", f"/{version}"))
            known[version] = {each["name"] for each in answer["resources"]}
        assert (f"{resource}/{sub}" if sub else resource) in known[version], line


def test_over_the_cluster(install: Install, anybody: Account, ns: str) -> None:
    operator = install("moorage-all")
    for namespace in (ns, "kube-system"):
        assert beyond(operator.rights(namespace), anybody.rights(namespace)) == MODELS
    assert beyond(operator.rights(SYSTEM), anybody.rights(SYSTEM)) == {**MODELS, **ELECTION}
    refused(operator, DENIED, ns)


def test_in_named_namespaces(install: Install, anybody: Account, ns: str) -> None:
    operator = install("moorage-some", f"watchNamespaces={{{ns}}}")
    assert beyond(operator.rights(ns), anybody.rights(ns)) == MODELS
    assert beyond(operator.rights("default"), anybody.rights("default")) == {}
    assert beyond(operator.rights(SYSTEM), anybody.rights(SYSTEM)) == ELECTION
    refused(operator, DENIED + OUTSIDE, ns)


def test_it_cannot_become_anybody_else(install: Install, ns: str) -> None:
    operator = install("moorage-masks")
    others: list[dict[str, str]] = [
        {"Impersonate-User": "admin"},
        {"Impersonate-User": "system:serviceaccount:kube-system:namespace-controller"},
        {"Impersonate-User": "x", "Impersonate-Group": "system:masters"},
    ]
    for headers in others:
        answer = operator.ask("GET /api/v1/secrets", **headers)
        assert answer.status_code == 403
        assert "cannot impersonate" in answer.json()["message"]


def test_the_status_is_no_way_to_the_spec(api: Cluster, install: Install, ns: str, apply: Any) -> None:
    """The one write to the custom resources that it has reaches the status and nothing beside it."""
    operator = install("moorage-status")
    apply(model_deployment(**without_volumes()))
    before = deploy.get(api, "mdep", "digits", ns)
    assert before is not None
    path = f"/apis/moorage.dev/v1alpha1/namespaces/{ns}/modeldeployments/digits/status"
    change = {
        "metadata": {"labels": {"written": "yes"}, "finalizers": ["example.com/kept"]},
        "spec": {"replicas": 9, "runtime": {"triton": {}}},
        "status": {"desiredReplicas": 1},
    }
    answer = operator.ask(f"PATCH {path}", change)
    assert answer.status_code == 200, answer.text
    after = deploy.get(api, "mdep", "digits", ns)
    assert after is not None
    assert after["status"]["desiredReplicas"] == 1
    assert after["spec"] == before["spec"]
    assert after["metadata"]["generation"] == before["metadata"]["generation"]
    assert "finalizers" not in after["metadata"] and "labels" not in after["metadata"]
