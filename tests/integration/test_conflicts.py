"""What cannot be made is said where the user looks, and nothing of anybody else is touched."""

import pytest

from cluster import Cluster
from cluster.interface import ClusterError
from support import deploy
from support.operator_process import OperatorProcess
from support.resources import model_deployment, training_job, without_volumes

SOMEBODYS_SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "digits", "labels": {"app": "shop"}},
    "spec": {"selector": {"app": "shop"}, "ports": [{"port": 80}]},
}


def test_a_name_that_is_taken_stalls_and_nothing_is_written(
    api: Cluster, operator: OperatorProcess, ns: str, apply
) -> None:
    apply(SOMEBODYS_SERVICE)
    before = deploy.get(api, "service", "digits", ns)
    apply(model_deployment(**without_volumes()))
    stalled = deploy.wait_for_condition(api, "mdep", "digits", "Stalled", namespace=ns)
    said = deploy.condition(stalled, "Stalled")
    assert said["reason"] == "NameConflict"
    assert "Service digits exists and belongs to somebody else" in said["message"]
    assert deploy.get(api, "service", "digits", ns) == before
    assert deploy.get(api, "deployment", "digits", ns) is None, "half a resource helps nobody"

    # Once the other one is gone all is well, without anybody touching the resource: at the latest with a resync.
    api.kubectl("delete", "service", "digits", "-n", ns)
    api.kubectl("label", "mdep", "digits", "-n", ns, "look=again")
    deploy.wait_for_condition(api, "mdep", "digits", "Ready", namespace=ns)


def test_another_resources_child_is_not_taken_over(api: Cluster, operator: OperatorProcess, ns: str, apply) -> None:
    # The TrainingJob "a" owns the Job and Service "a-train", a name a ModelDeployment may want, too.
    apply(training_job("a", podTemplate={"spec": {"nodeSelector": {"kubernetes.io/hostname": "nowhere"}}}))
    deploy.eventually(lambda: deploy.get(api, "service", "a-train", ns), 20, "the Service of the training")
    apply(model_deployment("a-train", **without_volumes()))
    stalled = deploy.wait_for_condition(api, "mdep", "a-train", "Stalled", namespace=ns)
    assert "belongs to TrainingJob a" in deploy.condition(stalled, "Stalled")["message"]


def test_what_the_api_server_refuses_is_shown_in_its_words(
    api: Cluster, operator: OperatorProcess, ns: str, apply
) -> None:
    overlay = {"spec": {"containers": [{"name": "server", "imagePullPolicy": "Sometimes"}]}}
    apply(model_deployment(**without_volumes(podTemplate=overlay)))
    stalled = deploy.wait_for_condition(api, "mdep", "digits", "Stalled", namespace=ns)
    said = deploy.condition(stalled, "Stalled")
    assert "imagePullPolicy" in said["message"]
    assert deploy.condition(stalled, "Ready")["status"] == "False"
    apply(model_deployment(**without_volumes()))
    api.kubectl("patch", "mdep", "digits", "-n", ns, "--type=merge", "-p", '{"spec":{"podTemplate":null}}')
    deploy.wait_for_condition(api, "mdep", "digits", "Ready", namespace=ns)


@pytest.mark.parametrize("name", ["1digits", "di.gits", "d" * 53])
def test_a_name_no_child_could_have_is_refused_at_once(api: Cluster, ns: str, apply, name: str) -> None:
    with pytest.raises(ClusterError, match=r"metadata\.name"):
        apply(model_deployment(name))
