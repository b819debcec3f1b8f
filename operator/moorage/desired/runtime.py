"""What a runtime contributes to a serving pod, and what all of them share: ports, probes, the way a pod leaves."""

from dataclasses import dataclass, field
from typing import Any

from moorage.api.modeldeployment import ModelDeployment
from moorage.api.names import GRPC_PORT, HTTP_PORT, METRICS_PORT, SERVER
from moorage.desired import pods
from moorage.desired.defaults import Defaults
from moorage.desired.meta import Manifest

# Endpoints and load balancers hear of a leaving pod while it still takes requests. Five seconds is what kube-proxy and
# most ingresses need; without it the last requests meet a closed port.
LINGER = 5
# A model of many gigabytes may take its time; a server that cannot load ends by itself and is not waited for.
STARTUP_SECONDS = 3600


@dataclass(frozen=True)
class Parts:
    """One runtime's share of the pod. `config` is the ConfigMap's data, where there is one; `grpc` the name of the port
    that speaks gRPC, where one does."""

    container: Manifest
    volumes: list[Manifest]
    init: list[Manifest] = field(default_factory=list)
    config: dict[str, str] | None = None
    scraped: bool = True
    grpc: str = ""


def container(
    md: ModelDeployment, image: str, defaults: Defaults, *, mounts: list[Manifest], ours: bool, **body: Any
) -> tuple[Manifest, list[Manifest]]:
    """The server's container and the scratch volumes it needs."""
    volumes, scratch = pods.scratch(md.spec.resources)
    found: Manifest = {
        "name": SERVER,
        **pods.image(image, defaults),
        **body,
        "resources": pods.requirements(md.spec.resources, defaults),
        "securityContext": pods.container_security(read_only=ours),
        # A server that dies before it can write its own message still leaves its last words.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "lifecycle": {"preStop": {"sleep": {"seconds": LINGER}}},
        "volumeMounts": [*mounts, *scratch],
    }
    return {key: value for key, value in found.items() if value not in ([], {})}, volumes


def ports(*, http: int = HTTP_PORT, grpc: bool = False, metrics: bool = True) -> list[Manifest]:
    found = [{"name": "http", "containerPort": http, "protocol": "TCP"}]
    if grpc:
        found.append({"name": "grpc", "containerPort": GRPC_PORT, "protocol": "TCP"})
    if metrics:
        found.append({"name": "metrics", "containerPort": METRICS_PORT, "protocol": "TCP"})
    return found


def probes(ready: Manifest, live: Manifest) -> Manifest:
    """Started is ready once; then readiness each second, as a pod that is full or leaving must not get requests."""
    return {
        "startupProbe": {**ready, "periodSeconds": 1, "timeoutSeconds": 2, "failureThreshold": STARTUP_SECONDS},
        "readinessProbe": {**ready, "periodSeconds": 1, "timeoutSeconds": 2, "failureThreshold": 2},
        # Slow to kill: a server under full load answers late, and killing it makes the load worse.
        "livenessProbe": {**live, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
    }


def get(path: str, *, tls: bool = False) -> Manifest:
    scheme = {"scheme": "HTTPS"} if tls else {}
    return {"httpGet": {"path": path, "port": "http", **scheme}}


def protocol_probes(*, tls: bool = False) -> Manifest:
    """Of a server that speaks the Open Inference Protocol."""
    return probes(get("/v2/health/ready", tls=tls), get("/v2/health/live", tls=tls))
