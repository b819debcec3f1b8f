"""How many replicas: what was decided, or before that what runs."""

from typing import Any

import pytest

from moorage.api.facts import Decision
from moorage.api.modeldeployment import ModelDeployment
from moorage.kube.kinds import Key
from moorage.reconcile.queue import WorkQueue
from moorage.reconcile.replicas import Replicas
from moorage.reconcile.store import Store

KEY = Key("ModelDeployment", "ns", "a")
FOLLOWING = ("True", "Following", "replicas follow the load")


def model_deployment(*, status: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    return {
        "kind": "ModelDeployment",
        "metadata": {"name": "a", "namespace": "ns", "uid": "u", "resourceVersion": "1", "generation": 1},
        "spec": {"model": {"uri": "pvc://m/a"}, "runtime": {"torch": {}}, **spec},
        "status": status or {},
    }


def scaled(low: int = 1, high: int = 8, status: dict[str, Any] | None = None) -> dict[str, Any]:
    metrics = [{"type": "Concurrency", "target": 8}]
    return model_deployment(status=status, scaling={"minReplicas": low, "maxReplicas": high, "metrics": metrics})


def deployment(replicas: int, owner: str = "u") -> dict[str, Any]:
    reference = {"kind": "ModelDeployment", "name": "a", "uid": owner, "controller": True}
    meta = {"name": "a", "namespace": "ns", "uid": "d", "resourceVersion": "1", "ownerReferences": [reference]}
    return {
        "kind": "Deployment",
        "metadata": meta,
        "spec": {"replicas": replicas},
        "status": {"readyReplicas": replicas},
    }


class World:
    def __init__(self, *, measuring: bool = True) -> None:
        self.store, self.queue = Store(), WorkQueue()
        self.replicas = Replicas(self.store, self.queue, measuring=measuring)

        self.store.put(scaled())

    def wanted(self, obj: dict[str, Any]) -> tuple[int, Decision | None]:
        return self.replicas.wanted(KEY, ModelDeployment.parse(obj))


@pytest.fixture
def world() -> World:
    return World()


def test_without_scaling_it_is_what_the_user_says(world: World) -> None:
    assert world.wanted(model_deployment()) == (1, None)
    assert world.wanted(model_deployment(replicas=0)) == (0, None)


def test_a_decision_is_followed(world: World) -> None:
    decision = Decision(3, "demand 20 / target 8 → 3", FOLLOWING)
    world.replicas.publish(KEY, "u", decision)
    assert world.wanted(scaled()) == (3, decision)
    assert len(world.queue) == 1


def test_before_the_first_decision_what_runs_goes_on_running(world: World) -> None:
    world.store.put(deployment(5))
    replicas, decision = world.wanted(scaled())
    assert replicas == 5
    assert decision is not None and decision.active[0] == "Unknown"


def test_a_restart_has_nothing_to_say(world: World) -> None:
    world.store.put(deployment(5))
    told = {"conditions": [{"type": "ScalingActive", "status": "True", "reason": "Following", "message": "…"}]}
    assert world.wanted(scaled(status=told)) == (5, None)


def test_a_deployment_that_was_deleted_comes_back_as_large_as_it_was(world: World) -> None:
    assert world.wanted(scaled(status={"desiredReplicas": 4}))[0] == 4


def test_nothing_yet_begins_at_the_minimum(world: World) -> None:
    assert world.wanted(scaled(low=2))[0] == 2


def test_new_bounds_hold_at_once(world: World) -> None:
    world.replicas.publish(KEY, "u", Decision(7, "demand 50 / target 8 → 7", FOLLOWING))
    assert world.wanted(scaled(high=4))[0] == 4
    assert world.wanted(scaled(low=8))[0] == 8


def test_without_prometheus_it_says_so_and_holds() -> None:
    world = World(measuring=False)
    world.store.put(deployment(5))
    replicas, decision = world.wanted(scaled())
    assert replicas == 5
    assert decision is not None and decision.active[:2] == ("False", "PrometheusNotConfigured")


def test_the_same_number_for_the_same_cause_is_no_news(world: World) -> None:
    first = Decision(3, "demand 20 / target 8 → 3", FOLLOWING)
    world.replicas.publish(KEY, "u", first)
    world.replicas.publish(KEY, "u", Decision(3, "demand 21 / target 8 → 3", FOLLOWING))
    assert world.wanted(scaled()) == (3, first)


def test_the_loop_is_given_what_runs_and_scales(world: World) -> None:
    assert list(world.replicas.scaled()) == [], "what does not run has no load"
    world.store.put(deployment(2))
    (found,) = world.replicas.scaled()
    assert (found.key, found.current, found.ready) == (KEY, 2, 2)
    world.replicas.publish(KEY, "u", Decision(3, "…", FOLLOWING))
    (found,) = world.replicas.scaled()
    assert (found.current, found.ready) == (3, 2)


def test_a_new_resource_of_the_name_begins_afresh(world: World) -> None:
    world.replicas.publish(KEY, "u", Decision(7, "demand 50 / target 8 → 7", FOLLOWING))
    world.store.put(deployment(7))
    anew = scaled()
    anew["metadata"] |= {"uid": "u2", "resourceVersion": "9"}
    world.store.put(anew)
    assert world.wanted(anew)[0] == 1
    assert list(world.replicas.scaled()) == [], "the Deployment of the former one says nothing"


def test_a_decision_about_what_is_gone_is_dropped() -> None:
    queue = WorkQueue()
    replicas = Replicas(Store(), queue, measuring=True)
    replicas.publish(KEY, "u", Decision(3, "…", FOLLOWING))
    assert len(queue) == 0


def test_without_prometheus_it_names_the_setting() -> None:
    _, decision = World(measuring=False).wanted(scaled())
    assert decision is not None and "prometheus.url in the chart's values" in decision.active[2]
