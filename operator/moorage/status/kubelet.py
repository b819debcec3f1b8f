"""What the kubelet waits for until a pod takes requests: images, configuration, volumes, and probes that succeed.

Of images and configuration it speaks in the pod's status. Of volumes that it cannot mount and probes that fail it
speaks in Kubernetes Events alone: `puzzling` says whose are worth reading, and `heard` is what was read.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import AwareDatetime, TypeAdapter

from moorage.status.finding import Finding

Pod = dict[str, Any]

_AT: TypeAdapter[AwareDatetime] = TypeAdapter(AwareDatetime)

MOUNTING_SECONDS = 4
"""For volumes and the pod's network, which take a second. Longer, and the kubelet is asked what it waits for."""
SLOW_SECONDS = 60
"""For a server to take requests. Longer is not wrong, a large model takes its time, but it is told."""
STUCK_SECONDS = 600
"""No longer a matter of patience: the same ten minutes after which Kubernetes calls a rollout stuck."""

# What runs before the server, however long it takes.
_BEFORE = {
    "fetch": "FetchingModel",
    "verify": "CheckingModel",
    "decrypt": "DecryptingModel",
    "repository": "PreparingModel",
}
_BEING = {
    "fetch": "fetched",
    "verify": "checked",
    "decrypt": "decrypted",
    "repository": "checked and laid out for Triton",
}
_IMAGE = {"ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
START = {"RunContainerError", "CreateContainerError", "StartError", "ContainerCannotRun"}
# ErrImagePull and ImagePullBackOff take turns, and so would our message, with a write each time.
_BACK_OFF = re.compile(r"^Back-off pulling image \"[^\"]*\"(: )?(ErrImagePull: )?")
_NOT_FOUND = re.compile(r"(secret|configmap|persistentvolumeclaim) \"([^\"]+)\" not found", re.IGNORECASE)
_KEY_MISSING = re.compile(r"couldn't find key \S+ in (Secret|ConfigMap) \S+")
_NAMES = {"secret": "Secret", "configmap": "ConfigMap", "persistentvolumeclaim": "Claim"}
_SANDBOX = "FailedCreatePodSandBox"
_SETUP = {"FailedMount", "FailedAttachVolume", _SANDBOX}
_MOUNT = re.compile(r"^MountVolume\.SetUp failed for volume \"[^\"]*\" : ")


@dataclass(frozen=True)
class Heard:
    """An Event: its reason, and what it says."""

    reason: str
    words: str


Hearsay = Mapping[str, list[Heard]]
"""By the uid of whom the Events are about, the newest last."""


@dataclass(frozen=True)
class Circumstances:
    """What is not in the pods themselves. Without a time nothing takes too long."""

    now: str = ""
    heard: Hearsay = field(default_factory=dict)
    spec: Mapping[str, Any] = field(default_factory=dict)
    """Of the template they are made of: what a probe asks."""


def missing(words: str) -> re.Match[str] | None:
    return _NOT_FOUND.search(words) or _KEY_MISSING.search(words)


def container_waits(pod: str, container: dict[str, Any]) -> Finding | None:
    """What keeps the kubelet from starting a container."""
    waiting = (container.get("state") or {}).get("waiting") or {}
    reason, message = waiting.get("reason") or "", waiting.get("message") or ""

    def finding(kind: str, words: str) -> Finding:
        return Finding("Environment", kind, words, pod, container["name"])

    if reason in _IMAGE:
        words = _BACK_OFF.sub("", message).strip()
        return finding("ImagePullFailed", words or f"cannot pull the image {container.get('image', '')}".strip())
    if reason == "CreateContainerConfigError":
        found = missing(message)
        kind = f"{_NAMES[found.group(1).lower()]}NotFound" if found else "ContainerConfigInvalid"
        return finding(kind, message or "the kubelet cannot make the container's configuration")
    if reason in START:
        return finding("StartFailed", message or "the container could not be started")
    return None


def pod_waits(pod: Pod, containers: list[dict[str, Any]], around: Circumstances) -> Finding:
    """Nothing has failed: what comes before it is ready."""
    status, name = pod.get("status") or {}, pod["metadata"]["name"]
    told = around.heard.get(str(pod["metadata"].get("uid")), [])
    if not status.get("conditions"):
        return Finding("Waiting", "Scheduling", "waiting for the scheduler", name)
    running = [c for c in containers if "running" in (c.get("state") or {}) and not c.get("ready")]
    for init in (container["name"] for container in running):
        if init in _BEFORE:
            return Finding("Waiting", _BEFORE[init], f"the model is being {_BEING[init]}", name, init)
    if running:
        return _not_ready(pod, running[0], around, told)
    return _not_set_up(pod, around.now, told)


def puzzling(pods: Iterable[Pod], now: str) -> list[Pod]:
    """Those that have waited for longer than usual, for something that only Events tell."""
    return [pod for pod in pods if any(waited >= usual for waited, usual in _waits(pod, now))]


def next_turn(pods: Iterable[Pod], now: str) -> float | None:
    """Seconds until time alone makes a difference to what these pods have to say; None if it never does."""
    turns = (SLOW_SECONDS, STUCK_SECONDS)
    ahead = [
        turn - waited
        for pod in pods
        for waited, usual in _waits(pod, now)
        for turn in ((usual,) if usual == MOUNTING_SECONDS else turns)
        if turn > waited
    ]
    # Times in a status are of whole seconds.
    return min(ahead) + 1 if ahead else None


def _waits(pod: Pod, now: str) -> Iterator[tuple[float, float]]:
    """For what the pod waits: for how many seconds already, and after how many that is unusual."""
    if pod["metadata"].get("deletionTimestamp") or _condition(pod, "Ready").get("status") == "True":
        return
    placed, prepared = _condition(pod, "PodScheduled"), _condition(pod, "PodReadyToStartContainers")
    if placed.get("status") == "True" and prepared.get("status") == "False":
        # Not even the pod's sandbox is there: volumes come first.
        yield seconds(placed.get("lastTransitionTime"), now), MOUNTING_SECONDS
    for container in (pod.get("status") or {}).get("containerStatuses") or []:
        if "running" in (container.get("state") or {}) and not container.get("ready"):
            yield _running_unready(pod, container, now), SLOW_SECONDS


def _not_set_up(pod: Pod, now: str, told: list[Heard]) -> Finding:
    name = pod["metadata"]["name"]
    failed = next((one for one in reversed(told) if one.reason in _SETUP), None)
    if failed is not None and puzzling([pod], now):
        found = missing(failed.words)
        other = "SandboxFailed" if failed.reason == _SANDBOX else "MountFailed"
        reason = f"{_NAMES[found.group(1).lower()]}NotFound" if found else other
        return Finding("Environment", reason, _MOUNT.sub("", failed.words), name)
    needed = ", ".join(_needed(pod.get("spec") or {}))
    words = "the kubelet prepares image and volumes" + (f"; these must exist: {needed}" if needed else "")
    return Finding("Waiting", "ContainerCreating", words, name)


def _not_ready(pod: Pod, container: dict[str, Any], around: Circumstances, told: list[Heard]) -> Finding:
    """It runs and does not take requests. The probe's words count once a start takes long: before, it fails by
    nature."""
    name, which = pod["metadata"]["name"], container["name"]
    waited = _running_unready(pod, container, around.now)
    if waited < SLOW_SECONDS:
        return Finding("Waiting", "Starting", f"{which} is starting", name, which)
    said = next((one.words for one in reversed(told) if one.reason == "Unhealthy"), "")
    since = container["state"]["running"].get("startedAt")
    words = f"{which} runs since {since} and is not ready: {_probe(around.spec, container)}"
    kind: Any = "Program" if waited >= STUCK_SECONDS else "Waiting"
    return Finding(kind, "ProbeFailing", f"{words}: {said}" if said else words, name, which, telling=True)


def _probe(pod_spec: Mapping[str, Any], container: dict[str, Any]) -> str:
    """Which probe it is that fails, and what it asks."""
    both = [*(pod_spec.get("initContainers") or []), *(pod_spec.get("containers") or [])]
    spec: dict[str, Any] = next((one for one in both if one.get("name") == container["name"]), {})
    kind = "readinessProbe" if container.get("started") else "startupProbe"
    probe = spec.get(kind) or {}
    if get := probe.get("httpGet"):
        return f"{kind} GET {get.get('path', '/')} on port {get.get('port')} fails"
    if socket := probe.get("tcpSocket"):
        return f"{kind} finds nobody listening on port {socket.get('port')}"
    return f"{kind} fails"


def _running_unready(pod: Pod, container: dict[str, Any], now: str) -> float:
    """Since its start, or since it was ready last."""
    times = (container["state"]["running"].get("startedAt"), _condition(pod, "Ready").get("lastTransitionTime"))
    return min(seconds(time, now) for time in times)


def seconds(since: str | None, now: str) -> float:
    """Unknown is just now."""
    if not since or not now:
        return 0.0
    passed = _AT.validate_python(now) - _AT.validate_python(since)
    return float(max(0.0, passed.total_seconds()))


def _condition(pod: Pod, type: str) -> dict[str, Any]:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return next((c for c in conditions if c.get("type") == type), {})


def _needed(spec: dict[str, Any]) -> Iterator[str]:
    """What the pod cannot start without."""
    for volume in spec.get("volumes") or []:
        if claim := volume.get("persistentVolumeClaim"):
            yield f"PersistentVolumeClaim {claim.get('claimName')}"
        for kind, key, name in (("ConfigMap", "configMap", "name"), ("Secret", "secret", "secretName")):
            if (source := volume.get(key)) and not source.get("optional"):
                yield f"{kind} {source.get(name)}"
