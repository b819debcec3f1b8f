"""Replicas follow what Prometheus says, through a restart of the operator and through an outage of Prometheus."""

from collections.abc import Iterator
from typing import Any

import pytest

from cluster import Cluster
from support import deploy
from support.fake_prometheus import FakePrometheus
from support.resources import model_deployment, without_volumes

SCALING = {"minReplicas": 1, "maxReplicas": 4, "metrics": [{"type": "Concurrency", "target": 8}]}


@pytest.fixture
def prometheus() -> Iterator[FakePrometheus]:
    with FakePrometheus() as fake:
        yield fake


def until_replicas(api: Cluster, ns: str, count: int) -> dict[str, Any]:
    def there() -> dict[str, Any] | None:
        found = deploy.get(api, "mdep", "digits", ns)
        status = (found or {}).get("status") or {}
        return found if status.get("readyReplicas") == status.get("desiredReplicas") == count else None

    return deploy.eventually(there, 25, f"{count} replicas")  # type: ignore[return-value]


def test_replicas_follow_the_load(api: Cluster, fleet, prometheus: FakePrometheus, ns: str, apply) -> None:
    settings = {"prometheus_url": prometheus.url, "scaling_interval_seconds": 0.3, "namespaces": ns}
    first = fleet.start("first", **settings).until("serves")
    prometheus.load[ns, "digits"] = 0
    apply(model_deployment(**without_volumes(scaling=SCALING)))
    until_replicas(api, ns, 1)
    found = deploy.wait_for_condition(api, "mdep", "digits", "ScalingActive", namespace=ns)
    assert "replicas" not in found["spec"], "the wish is the user's, the decision is ours"

    prometheus.load[ns, "digits"] = 20
    found = until_replicas(api, ns, 3)
    assert found["status"]["scaling"]["reason"] == "demand 20 / target 8 → 3"
    assert [(e["from"], e["to"]) for e in found["status"]["scaling"]["history"]] == [(1, 3)]
    assert deploy.get(api, "deployment", "digits", ns)["spec"]["replicas"] == 3  # type: ignore[index]

    prometheus.load[ns, "digits"] = 500
    found = until_replicas(api, ns, 4)
    assert "maxReplicas" in found["status"]["scaling"]["reason"]
    generation = deploy.get(api, "deployment", "digits", ns)["metadata"]["generation"]  # type: ignore[index]

    # The load has gone but the window remembers it: a fresh operator must not forget what Prometheus knows.
    prometheus.load[ns, "digits"], prometheus.peaks[ns, "digits"] = 1, 30
    assert first.stop() == 0
    second = fleet.start("second", **settings).until("serves")
    asked = prometheus.asked
    deploy.eventually(lambda: prometheus.asked > asked + 8, 15, "two rounds of the second operator")
    assert deploy.get(api, "deployment", "digits", ns)["metadata"]["generation"] == generation  # type: ignore[index]

    prometheus.peaks[ns, "digits"] = 1
    until_replicas(api, ns, 1)
    events = deploy.items(api, "events.events.k8s.io", ns)
    assert any(event["reason"] == "Scaled" for event in events)
    assert second.metric("moorage_operator_scaling_decisions_total", direction="down") >= 1


def test_nothing_is_scaled_down_without_data(api: Cluster, fleet, prometheus: FakePrometheus, ns: str, apply) -> None:
    fleet.start("op", prometheus_url=prometheus.url, scaling_interval_seconds=0.3, namespaces=ns).until("serves")
    prometheus.load[ns, "digits"] = 20
    apply(model_deployment(**without_volumes(scaling=SCALING)))
    until_replicas(api, ns, 3)
    prometheus.load.clear()  # it answers, and has nothing to say
    held = deploy.wait_for_condition(api, "mdep", "digits", "ScalingActive", "False", namespace=ns)
    assert deploy.condition(held, "ScalingActive")["reason"] == "NoData"
    assert held["status"]["desiredReplicas"] == 3


def test_an_outage_of_prometheus_is_told_and_replicas_stay(
    api: Cluster, fleet, prometheus: FakePrometheus, ns: str, apply
) -> None:
    fleet.start("op", prometheus_url=prometheus.url, scaling_interval_seconds=0.3, namespaces=ns).until("serves")
    prometheus.load[ns, "digits"] = 20
    apply(model_deployment(**without_volumes(scaling=SCALING)))
    until_replicas(api, ns, 3)
    prometheus.__exit__()
    held = deploy.wait_for_condition(api, "mdep", "digits", "ScalingActive", "False", namespace=ns)
    assert deploy.condition(held, "ScalingActive")["reason"] == "PrometheusUnreachable"
    assert held["status"]["desiredReplicas"] == 3
    assert deploy.condition(held, "Ready")["status"] == "True", "serving does not depend on Prometheus"
