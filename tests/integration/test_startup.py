"""What may be missing or go away around the operator, and what it does then."""

import time

import yaml

from cluster import Cluster
from support import deploy
from support.api_tier import apply_crds, operator_kubeconfig
from support.resources import model_deployment, without_volumes
from support.supervisor import Supervisor

QUICK = {"lease_duration_seconds": 4, "lease_renew_deadline_seconds": 3, "lease_retry_seconds": 0.5}


def test_an_operator_that_came_before_the_crds_waits_for_them(api: Cluster, fleet, ns: str, apply) -> None:
    api.kubectl("delete", "crd", "modeldeployments.moorage.dev", "trainingjobs.moorage.dev")
    try:
        operator = fleet.start("early")
        said = "waiting for the CRDs of modeldeployments, trainingjobs"
        deploy.eventually(lambda: said in operator.log.read_text(), 15, "it says what it waits for", every=0.2)
        assert operator.probe("/healthz")[0] == 200
        assert operator.probe("/readyz")[0] == 503
    finally:
        apply_crds(api)
    operator.until("serves", timeout=30)
    deploy.eventually(lambda: api.kubectl("get", "mdep", "-n", ns) or True, 20, "kubectl knows them, too")
    apply(model_deployment(**without_volumes()))
    deploy.wait_for_condition(api, "mdep", "digits", "Ready", namespace=ns)


def test_an_operator_whose_crds_vanish_ends_so_that_a_fresh_one_can_wait(api: Cluster, fleet) -> None:
    operator = fleet.start("bereft").until("serves")
    time.sleep(1)
    try:
        api.kubectl("delete", "crd", "modeldeployments.moorage.dev", "trainingjobs.moorage.dev")
        assert operator.wait(60) == 1
    finally:
        apply_crds(api)


def test_crds_that_are_deleted_and_made_anew_are_served_again(api: Cluster, fleet, ns: str, apply) -> None:
    """All resources went with the old ones. Whether the process lives through it or a fresh one goes on is its own."""
    with Supervisor(lambda: fleet.start("reborn", **QUICK), replicas=1) as operators:
        operators.leader().until("serves")
        api.kubectl("delete", "crd", "modeldeployments.moorage.dev", "trainingjobs.moorage.dev")
        apply_crds(api)
        deploy.eventually(lambda: api.kubectl("get", "mdep", "-n", ns) or True, 20, "kubectl knows them, too")
        apply(model_deployment(**without_volumes()))
        deploy.wait_for_condition(api, "mdep", "digits", "Ready", namespace=ns)
        print([f"{each.name} ended: {each.last_word()}" for each in operators.ended])


def test_it_serves_the_named_namespaces_with_rights_there_alone(api: Cluster, fleet, ns: str, apply, tmp_path) -> None:
    other = f"{ns[:30]}-other"
    api.kubectl("create", "namespace", other)
    api.kubectl("delete", "clusterrole,clusterrolebinding", "moorage", "--ignore-not-found")
    try:
        kubeconfig = operator_kubeconfig(api, tmp_path, f"watchNamespaces={{{ns}}}")
        fleet.start("scoped", kubeconfig=kubeconfig, namespaces=ns).until("serves")
        apply(model_deployment(**without_volumes()))
        api.kubectl("apply", "-n", other, "-f", "-", input=yaml.safe_dump(model_deployment(**without_volumes())))
        deploy.wait_for_condition(api, "mdep", "digits", "Ready", namespace=ns)
        untouched = deploy.get(api, "mdep", "digits", other)
        assert untouched is not None and "status" not in untouched
    finally:
        operator_kubeconfig(api, tmp_path)
        api.kubectl("delete", "namespace", other, "--wait=false")


def test_missing_rights_are_named(api: Cluster, fleet, tmp_path) -> None:
    kubeconfig = operator_kubeconfig(api, tmp_path)
    api.kubectl("delete", "clusterrolebinding", "moorage")
    try:
        operator = fleet.start("powerless", kubeconfig=kubeconfig)
        assert operator.wait(30) == 1
        reason = next(line["reason"] for line in operator.lines() if line.get("event") == "ending")
        assert 'cannot list resource "modeldeployments"' in reason
        assert 'cannot list resource "services"' in reason
    finally:
        operator_kubeconfig(api, tmp_path)


def test_wrong_settings_are_explained(fleet) -> None:
    operator = fleet.start("wrong", prometheus_url="prometheus:9090", workers=0)
    assert operator.wait(20) == 78
    text = operator.log.read_text()
    assert "MOORAGE_PROMETHEUS_URL" in text
    assert "http://prometheus:9090" in text
    assert "MOORAGE_WORKERS" in text


def test_it_stops_within_seconds(fleet) -> None:
    operator = fleet.start("brief").until("serves")
    began = time.monotonic()
    assert operator.stop() == 0
    assert time.monotonic() - began < 10  # the kubelet would wait 30
