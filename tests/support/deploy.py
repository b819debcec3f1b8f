"""Moorage on a cluster, the way a user gets it there: images, then `helm upgrade --install`."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from cluster import Cluster, ClusterError
from support import reader

ROOT = Path(__file__).parents[2]
T = TypeVar("T")
NAMESPACE = "moorage-system"
RELEASE = "moorage"
PROMETHEUS = "http://prometheus.monitoring.svc:9090"


def install(cluster: Cluster, images: dict[str, str], *settings: str) -> str:
    """Installs or upgrades the chart with these images (`operator`, `torch`, `triton`) and waits until it is ready."""
    values = [
        f"image={images['operator']}",
        f"runtimes.torch.image={images['torch']}",
        f"runtimes.triton.image={images['triton']}",
        f"prometheus.url={PROMETHEUS}",
        *settings,
    ]
    return cluster.helm(
        "upgrade", "--install", RELEASE, str(ROOT / "charts/moorage"), "--namespace", NAMESPACE, "--create-namespace",
        *(part for value in values for part in ("--set", value)), "--wait", "--timeout", "180s",
    )  # fmt: skip


def get(cluster: Cluster, kind: str, name: str, namespace: str = "default") -> dict[str, Any] | None:
    """The object, or None when there is none."""
    if kind in reader.KINDS:
        return reader.get(cluster, kind, name, namespace)
    text = cluster.kubectl("get", kind, name, "-n", namespace, "-o", "json", "--ignore-not-found")
    return json.loads(text) if text.strip() else None


def drift(cluster: Cluster, *args: str, input: str | None = None) -> str:
    """What `kubectl diff` shows between manifests and the cluster, as Argo CD would: empty where they are the same."""
    try:
        return cluster.kubectl("diff", *args, input=input)
    except ClusterError as error:
        return str(error)


def items(cluster: Cluster, kinds: str, namespace: str = "default", selector: str = "") -> list[dict[str, Any]]:
    return [item for kind in kinds.split(",") for item in reader.items(cluster, kind, namespace, selector)]


def condition(obj: dict[str, Any] | None, kind: str) -> dict[str, Any]:
    """The condition of this type; an Unknown one while it is not there, as the API conventions read absence."""
    found = ((obj or {}).get("status") or {}).get("conditions") or []
    absent: dict[str, Any] = {"type": kind, "status": "Unknown", "reason": "", "message": ""}
    return next((c for c in found if c["type"] == kind), absent)


def current(obj: dict[str, Any] | None) -> bool:
    """Whether the status speaks about the spec as it is now."""
    return bool(obj) and (obj.get("status") or {}).get("observedGeneration") == obj["metadata"]["generation"]


def eventually(probe: Callable[[], T], timeout: float, what: str, every: float = 0.5) -> T:
    """The first truthy answer of the probe; AssertionError with its last answer after `timeout` seconds."""
    end = time.monotonic() + timeout
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"after {timeout:.0f} s: {what}; last: {answer!r}")
        time.sleep(every)


def wait_for_condition(
    cluster: Cluster, kind: str, name: str, type: str, status: str = "True", *,
    namespace: str = "default", reason: str | None = None, timeout: float = 90,
) -> dict[str, Any]:  # fmt: skip
    """The object once the condition holds for its present generation."""
    seen: dict[str, Any] = {}

    def probe() -> dict[str, Any] | None:
        obj = get(cluster, kind, name, namespace)
        seen["status"] = (obj or {}).get("status")
        now = condition(obj, type)
        held = now["status"] == status and (reason is None or now["reason"] == reason)
        return obj if obj and held and current(obj) else None

    try:
        return eventually(probe, timeout, f"{kind}/{name} {type}={status} {reason or ''}")  # type: ignore[return-value]
    except AssertionError as error:
        raise AssertionError(f"{error}\nstatus: {json.dumps(seen.get('status'), indent=1)}") from None


@contextmanager
def namespace(cluster: Cluster, name: str, *, wait: bool = True) -> Iterator[str]:
    """A namespace that is gone afterwards, with everything in it; or is going, where nobody needs to `wait`: with pods
    that drain it takes Kubernetes 40 s."""
    cluster.kubectl("create", "namespace", name)
    try:
        yield name
    finally:
        cluster.kubectl("delete", "namespace", name, f"--wait={wait}".lower(), "--timeout=90s", timeout=100)
