"""The children of a ModelDeployment: Deployment, Service, and where they apply PodDisruptionBudget, ConfigMap,
PodMonitor."""

from moorage.api.facts import ResolvedModel
from moorage.api.modeldeployment import ModelDeployment
from moorage.api.names import GROUP, GRPC_PORT, HTTP_PORT, METRICS_PORT, MODEL_LABEL, triton_name
from moorage.desired import container, overlay, pods, torch, triton
from moorage.desired.defaults import Defaults
from moorage.desired.digest import digest, stamp
from moorage.desired.meta import Manifest, child, labels, selector
from moorage.desired.runtime import LINGER, STARTUP_SECONDS, Parts

_CONFIG_DIGEST = f"{GROUP}/config-digest"


def children(md: ModelDeployment, model: ResolvedModel, replicas: int, defaults: Defaults) -> list[Manifest]:
    """What shall exist, in the order in which it is applied: what pods need comes before the pods."""
    parts = _parts(md, model, defaults)
    found = []
    if parts.config is not None:
        found.append(
            child(md, "v1", "ConfigMap", triton_name(md.metadata.name), version=model.version, data=parts.config)
        )
    found += [_service(md, model, parts), _deployment(md, model, replicas, parts, defaults)]
    if replicas > 1:
        found.append(_disruption_budget(md, model))
    if defaults.pod_monitors and parts.scraped:
        found.append(_pod_monitor(md, model, defaults))
    return [stamp(obj) for obj in found]


def _parts(md: ModelDeployment, model: ResolvedModel, defaults: Defaults) -> Parts:
    runtime = md.spec.runtime
    match runtime.name:
        case "torch":
            assert runtime.torch is not None
            return torch.parts(md, runtime.torch, model, defaults)
        case "triton":
            assert runtime.triton is not None
            return triton.parts(md, runtime.triton, model, defaults)
        case _:
            assert runtime.container is not None
            return container.parts(md, runtime.container, model, defaults)


def _deployment(md: ModelDeployment, model: ResolvedModel, replicas: int, parts: Parts, defaults: Defaults) -> Manifest:
    annotations: dict[str, str] = {}
    if parts.scraped:
        annotations |= {
            "prometheus.io/scrape": "true",
            "prometheus.io/port": str(METRICS_PORT),
            "prometheus.io/path": "/metrics",
        }
    if parts.config is not None:
        # A changed ConfigMap alone would not restart the pods that read it once.
        annotations[_CONFIG_DIGEST] = digest(parts.config)
    template = {
        "metadata": {"labels": labels(md, model.version), **({"annotations": annotations} if annotations else {})},
        "spec": pods.spec(
            defaults,
            md.spec.resources,
            terminationGracePeriodSeconds=LINGER + md.spec.drain.timeout_seconds + 5,
            topologySpreadConstraints=[
                _spread(md, "kubernetes.io/hostname"),
                _spread(md, "topology.kubernetes.io/zone"),
            ],
            initContainers=parts.init,
            containers=[parts.container],
            volumes=parts.volumes,
        ),
    }
    spec = {
        "replicas": replicas,
        "revisionHistoryLimit": 3,
        "progressDeadlineSeconds": STARTUP_SECONDS + 60,
        # Never fewer than asked for: a pod leaves when its successor takes requests.
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "25%"}},
        "selector": {"matchLabels": selector(md)},
        "template": overlay.apply(template, md.spec.pod_template),
    }
    return child(md, "apps/v1", "Deployment", md.metadata.name, version=model.version, spec=spec)


def _spread(md: ModelDeployment, key: str) -> Manifest:
    # By revision too (pod-template-hash): else the pods of an old version push those of the new one together.
    return {
        "topologyKey": key,
        "maxSkew": 1,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": selector(md)},
        "matchLabelKeys": ["pod-template-hash"],
    }


def _service(md: ModelDeployment, model: ResolvedModel, parts: Parts) -> Manifest:
    ports = [{"name": "http", "port": HTTP_PORT, "targetPort": "http", "protocol": "TCP"}]
    if parts.grpc:
        ports.append({"name": "grpc", "port": GRPC_PORT, "targetPort": parts.grpc, "protocol": "TCP"})
    spec = {"type": "ClusterIP", "selector": selector(md), "ports": ports}
    return child(md, "v1", "Service", md.metadata.name, version=model.version, spec=spec)


def _disruption_budget(md: ModelDeployment, model: ResolvedModel) -> Manifest:
    spec = {
        "maxUnavailable": 1,
        "selector": {"matchLabels": selector(md)},
        # A pod that cannot load its model must not block the drain of its node.
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    }
    return child(md, "policy/v1", "PodDisruptionBudget", md.metadata.name, version=model.version, spec=spec)


def _pod_monitor(md: ModelDeployment, model: ResolvedModel, defaults: Defaults) -> Manifest:
    spec = {
        "selector": {"matchLabels": selector(md)},
        # Becomes the label moorage_dev_model_deployment, which the scaler's queries group by.
        "podTargetLabels": [MODEL_LABEL],
        "podMetricsEndpoints": [{"port": "metrics", "path": "/metrics"}],
    }
    monitor = child(md, "monitoring.coreos.com/v1", "PodMonitor", md.metadata.name, version=model.version, spec=spec)
    monitor["metadata"]["labels"] |= dict(defaults.pod_monitor_labels)
    return monitor
