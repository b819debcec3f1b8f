"""A right or a login that is taken away while the operator runs: it recovers, or ends and says why; never silence."""

import json
from pathlib import Path

import pytest

from cluster import Cluster
from support import deploy
from support.api_tier import operator_kubeconfig
from support.fault_proxy import FaultProxy
from support.resources import model_deployment, without_volumes
from support.supervisor import Supervisor

QUICK = {"lease_duration_seconds": 4, "lease_renew_deadline_seconds": 3, "lease_retry_seconds": 0.5}


def take_away(api: Cluster, role: str, resource: str, verbs: set[str]) -> None:
    found = json.loads(api.kubectl("get", *role.split("/"), "-n", deploy.NAMESPACE, "-o", "json"))
    for rule in found["rules"]:
        if resource in rule["resources"]:
            rule["verbs"] = [verb for verb in rule["verbs"] if verb not in verbs]
    found["rules"] = [rule for rule in found["rules"] if rule["verbs"]]
    api.kubectl("replace", "-f", "-", input=json.dumps(found))


@pytest.fixture
def rights(api: Cluster, tmp_path: Path):
    """Given back at the end, and in a test by calling it."""

    def give_back(*values: str) -> Path:
        return operator_kubeconfig(api, tmp_path, *values)

    yield give_back
    give_back()


def test_without_the_right_to_write_a_child_the_resource_says_so_and_recovers(
    api: Cluster, fleet, ns: str, apply, rights
) -> None:
    operator = fleet.start("bound", namespaces=ns).until("serves")
    take_away(api, "clusterrole/moorage", "services", {"create", "patch"})
    apply(model_deployment(**without_volumes()))
    waiting = deploy.wait_for_condition(api, "mdep", "digits", "Ready", "Unknown", namespace=ns, reason="Forbidden")
    assert 'cannot patch resource "services"' in deploy.condition(waiting, "Ready")["message"]
    rights()
    deploy.wait_for_condition(api, "mdep", "digits", "Ready", namespace=ns)
    assert operator.running


@pytest.mark.parametrize("resource", ["modeldeployments", "services"])
def test_without_the_right_to_watch_it_ends_or_recovers(
    api: Cluster, fleet, kubeconfig: Path, ns: str, apply, rights, tmp_path: Path, resource: str
) -> None:
    with FaultProxy(kubeconfig) as proxy:
        way = proxy.kubeconfig(tmp_path)
        with Supervisor(lambda: fleet.start("bound", kubeconfig=way, namespaces=ns, **QUICK), replicas=1) as operators:
            operators.leader().until("serves")
            take_away(api, "clusterrole/moorage", resource, {"list", "watch"})
            proxy.cut()
            deploy.eventually(
                lambda: operators.ended or any("cannot" in str(line) for line in operators.operators[0].lines()),
                60,
                "it says what it may not do",
            )
            rights()
            apply(model_deployment(**without_volumes()))
            deploy.wait_for_condition(api, "mdep", "digits", "Ready", namespace=ns)
            for ended in operators.ended:
                print(f"{ended.name} ended: {ended.last_word()}")
                assert f'resource "{resource}"' in ended.last_word()


def test_without_the_right_to_its_lease_it_ends(api: Cluster, fleet, rights) -> None:
    operator = fleet.start("bound", **QUICK).until("serves")
    take_away(api, "role/moorage-leader-election", "leases", {"get", "update"})
    assert operator.wait(60) == 1
    assert "could not renew the lease" in operator.last_word()
    assert any('cannot get resource "leases"' in str(line.get("error")) for line in operator.lines())


def test_a_token_that_is_no_longer_good_ends_the_process_and_the_next_one_has_a_new_one(
    api: Cluster, fleet, ns: str, apply, rights, tmp_path: Path
) -> None:
    account = "serviceAccount.name=short-lived"
    own = rights(account)
    operator = fleet.start("expired", kubeconfig=own, **QUICK).until("serves")
    # A token goes with its account. The API server believes what it found out for ten seconds more.
    api.kubectl("delete", "serviceaccount", "short-lived", "-n", deploy.NAMESPACE)
    assert operator.wait(60) == 1
    assert "could not renew the lease" in operator.last_word()
    assert any("Unauthorized" in str(line.get("error")) for line in operator.lines())

    fleet.start("renewed", kubeconfig=rights(account), **QUICK).until("serves")
    apply(model_deployment(**without_volumes()))
    deploy.wait_for_condition(api, "mdep", "digits", "Ready", namespace=ns)
