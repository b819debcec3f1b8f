"""What the operator's settings give the builders. The builders know no environment: they get this."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Defaults:
    # One image serves the model server and the trainer, and fetches models: one pull for each node.
    torch_image: str
    # The upstream image has no torch; for torch formats it must be one that has.
    triton_image: str
    # Empty: Kubernetes' own rule (Always for :latest, else IfNotPresent).
    image_pull_policy: str = ""
    image_pull_secrets: tuple[str, ...] = ()
    # What `resources.gpus` counts where the resource does not say.
    gpu_resource: str = "nvidia.com/gpu"
    # Beside the toleration for a taint named like the GPU resource, which device vendors' set-ups use.
    gpu_tolerations: tuple[Mapping[str, Any], ...] = ()
    # A PodMonitor only where the Prometheus operator's CRD is known to exist.
    pod_monitors: bool = False
    # Needed by PodMonitors only: the Prometheus operator often selects by a label of its own.
    pod_monitor_labels: tuple[tuple[str, str], ...] = ()
