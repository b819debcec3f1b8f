"""The operator's settings, from environment variables with the prefix MOORAGE_. Each default is followed by its reason.

Lists are separated by commas. What belongs to one model or one training is in its resource, not here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

from moorage import __version__
from moorage.desired.defaults import Defaults

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def _own_namespace() -> str:
    path = SERVICE_ACCOUNT / "namespace"
    return path.read_text().strip() if path.exists() else "default"


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="MOORAGE_", extra="ignore", frozen=True, use_attribute_docstrings=True)

    namespaces: Annotated[tuple[str, ...], NoDecode] = ()
    """Namespaces to serve; empty is all of them. With some named, Roles are enough and no ClusterRole is needed."""

    workers: int = Field(16, ge=1, le=256)
    """Reconciles at the same time. Between 4 and 64 nothing was faster: the API server is what limits."""

    reconcile_timeout_seconds: float = Field(60, gt=0)
    """A reconcile is a handful of requests; one that takes longer hangs, and its key must not be blocked for ever."""

    resync_seconds: float = Field(300, gt=0)
    """How often every kind is listed again. Watches lose deletions over a break, and only a list tells of them;
    1,000 resources cost 0.75 s."""

    watch_lag_limit_seconds: float = Field(60, gt=0)
    """A change that we know of and that its watch has not brought after this time means that the watch is dead."""

    lease_name: str = "moorage-operator"
    """One lease for an installation. Two installations over disjoint namespaces need two names or two namespaces."""

    lease_namespace: str = Field(default_factory=_own_namespace)
    """The operator's own namespace, where it may write its lease."""

    lease_duration_seconds: float = Field(15, gt=0)
    """A dead leader is followed after this time: the usual trade between fail-over and calm on a slow API server."""

    lease_renew_deadline_seconds: float = Field(10, gt=0)
    """A leader that could not renew for so long ends, well before another may begin."""

    lease_retry_seconds: float = Field(2, gt=0)
    """Often enough for four tries within the deadline, seldom enough to be no load."""

    request_timeout_seconds: float = Field(30, gt=0)
    """One request to the API server. Lists of 500 take well under a second."""

    prometheus_url: str = ""
    """Where load is measured, such as http://prometheus.monitoring.svc:9090. Empty: nothing scales by load, and
    resources that ask for it say so in their conditions."""

    scaling_interval_seconds: float = Field(5, gt=0)
    """One round of the scaling loop. Shorter than the usual scrape intervals brings nothing new to look at."""

    prometheus_timeout_seconds: float = Field(4, gt=0)
    """A query that takes longer than a round counts as data missing."""

    progress_interval_seconds: float = Field(2, gt=0)
    """How often a running training is asked for its progress, and the most often its status is written for it."""

    torch_image: str = f"ghcr.io/moorage/torch:{__version__}"
    """Server, trainer and model fetcher in one image: one build, one pull, one cache on the node."""

    triton_image: str = "nvcr.io/nvidia/tritonserver:25.10-py3"
    """The upstream server with its python backend; ours adds only configuration."""

    image_pull_policy: Literal["", "Always", "IfNotPresent", "Never"] = ""
    """Of our images. Empty is Kubernetes' own rule: what is on the node is right, but for tags named latest."""

    image_pull_secrets: Annotated[tuple[str, ...], NoDecode] = ()
    """Names of Secrets in the namespace of the model; none by default."""

    scaling_rate_window_seconds: int = Field(30, ge=5, le=600)
    """Load is the mean of so many seconds. A rate needs two scrapes in it: at least twice the scrape interval."""

    scaling_fresh_seconds: int = Field(60, ge=5, le=600)
    """A pod whose newest measure is older does not count as measured, and nothing is scaled down on such data."""

    gpu_resource: str = "nvidia.com/gpu"
    """The extended resource that `resources.gpus` asks for, where the resource names no other."""

    gpu_tolerations: tuple[dict[str, Any], ...] = ()
    """Tolerations of pods with GPUs, as a JSON list. A taint named like the GPU resource is tolerated without."""

    pod_monitor_labels: dict[str, str] = {}
    """Labels for PodMonitors, as JSON: many installations of the Prometheus operator select by one of their own."""

    pod_monitors: Literal["Auto", "Enabled", "Disabled"] = "Auto"
    """Auto: a PodMonitor for each model where the cluster knows that kind. Enabled insists, with an error where not."""

    metrics_port: int = Field(9090, ge=0, le=65535)
    """Prometheus's usual port, so that the address reads as what it is. 0 takes any free one."""

    health_port: int = Field(9091, ge=0, le=65535)
    """Apart from the metrics, so that a NetworkPolicy can open one and not the other. 0 takes any free one."""

    bind_address: str = "0.0.0.0"
    """Probes and Prometheus come from outside of the pod."""

    log_format: Literal["json", "text"] = "json"
    """Logs are collected more often than they are read from a terminal."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """A line for each change made, none for each look."""

    user_agent: str = f"moorage-operator/{__version__}"
    """What the API server's audit log and metrics know us by."""

    def defaults(self, *, pod_monitors: bool) -> Defaults:
        """What the builders of children need of all this."""
        return Defaults(
            torch_image=self.torch_image,
            triton_image=self.triton_image,
            image_pull_policy=self.image_pull_policy,
            image_pull_secrets=self.image_pull_secrets,
            gpu_resource=self.gpu_resource,
            gpu_tolerations=self.gpu_tolerations,
            pod_monitors=pod_monitors,
            pod_monitor_labels=tuple(sorted(self.pod_monitor_labels.items())),
        )

    @model_validator(mode="after")
    def _lease_in_order(self) -> Self:
        if not self.lease_retry_seconds < self.lease_renew_deadline_seconds < self.lease_duration_seconds:
            raise ValueError(
                "lease times must grow, MOORAGE_LEASE_RETRY_SECONDS < MOORAGE_LEASE_RENEW_DEADLINE_SECONDS < "
                f"MOORAGE_LEASE_DURATION_SECONDS: they are {self.lease_retry_seconds:g}, "
                f"{self.lease_renew_deadline_seconds:g} and {self.lease_duration_seconds:g}"
            )
        return self

    @field_validator("namespaces", "image_pull_secrets", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("prometheus_url")
    @classmethod
    def _no_slash(cls, value: str) -> str:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError(f"write the whole address, such as http://{value}")
        return value.rstrip("/")


def complaints(error: ValidationError | SettingsError) -> list[str]:
    """What is wrong with the environment, one line for each variable, by its name."""
    if isinstance(error, SettingsError):
        # It names the field and nothing else: a value that has a structure and is no JSON.
        named = (name for name in Settings.model_fields if f'"{name}"' in str(error))
        return [f"MOORAGE_{name.upper()}: must be JSON ({error.__cause__ or error})" for name in named] or [str(error)]
    found = []
    for problem in error.errors():
        place = "_".join(str(part) for part in problem["loc"]).upper()
        message = problem["msg"].removeprefix("Value error, ")
        found.append(f"MOORAGE_{place}: {message} (given: {problem['input']!r})" if place else message)
    return found
