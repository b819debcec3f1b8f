"""The operator's pods: restricted, spread, probed, and started with the image that was asked for."""

import pytest

from chart.rendered import Manifest, Render, Rendered
from chart.variants import VARIANTS


def pods(rendered: Rendered) -> list[Manifest]:
    return [rendered.operator["spec"], rendered.one("Pod")["spec"]]


@pytest.mark.parametrize("variant", VARIANTS)
def test_restricted_pod_security(render: Render, variant: str) -> None:
    for spec in pods(render(VARIANTS[variant])):
        assert spec["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        assert all(set(v) <= {"name", "emptyDir"} for v in spec.get("volumes", []))
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "runAsNonRoot": True,
                "capabilities": {"drop": ["ALL"]},
            }


def test_only_the_operator_gets_a_token(render: Render) -> None:
    rendered = render()
    assert rendered.one("ServiceAccount")["automountServiceAccountToken"] is False
    assert rendered.operator["spec"]["automountServiceAccountToken"] is True
    assert rendered.one("Pod")["spec"]["automountServiceAccountToken"] is False


def test_no_service_becomes_a_setting(render: Render) -> None:
    """A Service `moorage-metrics` would otherwise put MOORAGE_METRICS_PORT=tcp://… into the environment."""
    assert all(spec["enableServiceLinks"] is False for spec in pods(render()))


def test_images(render: Render) -> None:
    from moorage import __version__

    assert {s["containers"][0]["image"] for s in pods(render())} == {f"ghcr.io/moorage/operator:{__version__}"}
    chosen = VARIANTS["own images"]
    for spec in pods(render(chosen)):
        assert spec["containers"][0]["image"] == chosen["image"]
        assert spec["containers"][0]["imagePullPolicy"] == "Always"
        assert spec["imagePullSecrets"] == [{"name": "pull"}]


def test_probes_and_ports(render: Render) -> None:
    rendered = render()
    (container,) = rendered.operator["spec"]["containers"]
    ports = {p["name"]: p["containerPort"] for p in container["ports"]}
    assert ports == {
        "metrics": int(rendered.environment["MOORAGE_METRICS_PORT"]),
        "health": int(rendered.environment["MOORAGE_HEALTH_PORT"]),
    }
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "health"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "health"}
    assert {p["targetPort"] for p in rendered.one("Service")["spec"]["ports"]} == ports.keys()
    assert rendered.operator["metadata"]["annotations"]["prometheus.io/port"] == str(ports["metrics"])


def test_spread_over_nodes_unless_told_otherwise(render: Render) -> None:
    assert "podAntiAffinity" in render().operator["spec"]["affinity"]
    placed = render(VARIANTS["placed"]).operator
    assert placed["spec"]["affinity"] == {"nodeAffinity": {}}
    (constraint,) = placed["spec"]["topologySpreadConstraints"]
    assert constraint["labelSelector"]["matchLabels"]["app.kubernetes.io/component"] == "operator"
    assert placed["metadata"]["labels"]["team"] == "ml"


def test_disruption_budget_only_where_another_replica_can_take_over(render: Render) -> None:
    assert render().one("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    assert render({"replicas": 1}).of("PodDisruptionBudget") == []


def test_labels_that_select_cannot_be_overridden(render: Render) -> None:
    rendered = render({"podLabels": {"app.kubernetes.io/name": "other"}})
    assert rendered.operator["metadata"]["labels"]["app.kubernetes.io/name"] == "moorage"


def test_network_policy_opens_probes_to_all_and_metrics_to_those_named(render: Render) -> None:
    policy = render(VARIANTS["closed network"]).one("NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    probes, metrics = policy["ingress"]
    assert probes == {"ports": [{"port": "health"}]}
    assert metrics["ports"] == [{"port": "metrics"}]
    helm_test = {"app.kubernetes.io/instance": "moorage", "app.kubernetes.io/component": "helm-test"}
    assert {"podSelector": {"matchLabels": helm_test}} in metrics["from"]
    assert "from" not in render(VARIANTS["open network policy"]).one("NetworkPolicy")["spec"]["ingress"][1]
