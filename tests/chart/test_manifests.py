"""Every manifest, under every set of values, is valid to Kubernetes to the last field."""

from collections import Counter

import kubernetes_validate
import pytest

from chart.rendered import Render, Rendered
from chart.variants import VARIANTS

# The range of versions the chart is for: its kubeVersion and the newest schema at hand.
KUBERNETES = ("1.30", "1.37")
CLUSTER_SCOPED = {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}
OF_OTHERS = {"ServiceMonitor", "PrometheusRule"}


@pytest.fixture(params=VARIANTS)
def rendered(request: pytest.FixtureRequest, render: Render) -> Rendered:
    return render(VARIANTS[request.param])


@pytest.mark.parametrize("version", KUBERNETES)
def test_valid(rendered: Rendered, version: str) -> None:
    for manifest in rendered.manifests:
        if manifest["kind"] not in OF_OTHERS:
            kubernetes_validate.validate(manifest, version, strict=True)


def test_each_object_has_one_place_and_our_labels(rendered: Rendered) -> None:
    seen = Counter((m["kind"], m["metadata"].get("namespace"), m["metadata"]["name"]) for m in rendered.manifests)
    assert [key for key, count in seen.items() if count > 1] == []
    for manifest in rendered.manifests:
        meta = manifest["metadata"]
        assert ("namespace" in meta) != (manifest["kind"] in CLUSTER_SCOPED), meta
        assert meta["labels"]["app.kubernetes.io/part-of"] == "moorage"
        assert meta["labels"]["app.kubernetes.io/managed-by"] == "Helm", "the operator adopts what says moorage"
        assert len(meta["name"]) <= 63


def test_selectors_find_the_operator_and_nothing_else(rendered: Rendered) -> None:
    labels = rendered.operator["metadata"]["labels"].items()
    test_pod = rendered.one("Pod")["metadata"]["labels"].items()
    selectors = [
        rendered.one("Deployment")["spec"]["selector"]["matchLabels"],
        rendered.one("Service")["spec"]["selector"],
    ]
    selectors += [m["spec"]["selector"]["matchLabels"] for m in rendered.of("PodDisruptionBudget")]
    selectors += [m["spec"]["podSelector"]["matchLabels"] for m in rendered.of("NetworkPolicy")]
    for selector in selectors:
        assert selector.items() <= labels
        assert not selector.items() <= test_pod


def test_two_releases_do_not_clash(render: Render) -> None:
    def names(release: str) -> set[tuple[str, str]]:
        manifests = render({"crds": {"enabled": False}}, release).manifests
        return {(m["kind"], m["metadata"]["name"]) for m in manifests}

    assert not names("blue") & names("green")
