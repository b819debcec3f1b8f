"""What a pod waits for, and from when on that is told: volumes after seconds, a server that is not ready after one
minute, and after ten as a failure."""

from typing import Any

import pytest

from moorage.status.kubelet import Circumstances, Heard, next_turn, puzzling
from moorage.status.pods import explain
from unit.status.objects import NOW, pod

PROBES = {
    "containers": [
        {
            "name": "server",
            "startupProbe": {"httpGet": {"path": "/v2/health/ready", "port": "http"}},
            "readinessProbe": {"tcpSocket": {"port": "http"}},
        }
    ]
}
REFUSED = Heard("Unhealthy", "Startup probe failed: connection refused")
UNMOUNTED = Heard("FailedMount", 'MountVolume.SetUp failed for volume "data" : configmap "absent" not found')


def running(started_at: str, *, started: bool = False, unready_since: str = "2026-01-01T10:00:00Z") -> dict[str, Any]:
    state = {"name": "server", "ready": False, "started": started, "state": {"running": {"startedAt": started_at}}}
    conditions = [
        {"type": "PodScheduled", "status": "True"},
        {"type": "Ready", "status": "False", "lastTransitionTime": unready_since},
    ]
    found = pod(containerStatuses=[state], conditions=conditions)
    found["metadata"]["uid"] = "p"
    return found


def unmounted(placed: str) -> dict[str, Any]:
    conditions = [
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": placed},
        {"type": "PodReadyToStartContainers", "status": "False"},
    ]
    found = pod(phase="Pending", containerStatuses=[], conditions=conditions)
    found["metadata"]["uid"] = "p"
    return found


# How long it runs (NOW is 12:00:00), kind and reason, and whether Events are worth reading.
STARTS = {
    "just now": ("2026-01-01T11:59:30Z", "Waiting", "Starting", False),
    "a minute": ("2026-01-01T11:59:00Z", "Waiting", "ProbeFailing", True),
    "ten minutes": ("2026-01-01T11:50:00Z", "Program", "ProbeFailing", True),
}


@pytest.mark.parametrize("case", STARTS)
def test_a_server_that_is_not_ready(case: str) -> None:
    since, kind, reason, asked = STARTS[case]
    seen = running(since)
    found = explain(seen, Circumstances(NOW))
    assert found is not None and (found.kind, found.reason, found.telling) == (kind, reason, asked)
    assert (puzzling([seen], NOW) == [seen]) is asked


def test_which_probe_fails_and_what_it_says() -> None:
    found = explain(running("2026-01-01T11:59:00Z"), Circumstances(NOW, {"p": [REFUSED]}, PROBES))
    assert found is not None
    assert found.message == (
        "server runs since 2026-01-01T11:59:00Z and is not ready: startupProbe GET /v2/health/ready on port http "
        "fails: Startup probe failed: connection refused"
    )


def test_a_server_that_was_ready_counts_from_when_it_no_longer_was() -> None:
    found = explain(
        running("2026-01-01T10:00:00Z", started=True, unready_since="2026-01-01T11:59:50Z"),
        Circumstances(NOW, {}, PROBES),
    )
    assert found is not None and found.reason == "Starting"
    found = explain(
        running("2026-01-01T10:00:00Z", started=True, unready_since="2026-01-01T11:50:00Z"),
        Circumstances(NOW, {}, PROBES),
    )
    assert found is not None and (found.kind, found.reason) == ("Program", "ProbeFailing")
    assert "readinessProbe finds nobody listening on port http" in found.message


VOLUMES = {
    "missing ConfigMap": (UNMOUNTED, ("Environment", "ConfigMapNotFound", 'configmap "absent" not found')),
    "missing Secret": (
        Heard("FailedMount", 'MountVolume.SetUp failed for volume "x" : secret "own" not found'),
        ("Environment", "SecretNotFound", 'secret "own" not found'),
    ),
    "other": (
        Heard("FailedAttachVolume", "AttachVolume.Attach failed: no such disk"),
        ("Environment", "MountFailed", "AttachVolume.Attach failed: no such disk"),
    ),
    "network": (
        Heard("FailedCreatePodSandBox", "no IP addresses available"),
        ("Environment", "SandboxFailed", "no IP addresses available"),
    ),
    "something else": (
        Heard("Scheduled", "Successfully assigned"),
        ("Waiting", "ContainerCreating", "the kubelet prepares image and volumes"),
    ),
}


@pytest.mark.parametrize("case", VOLUMES)
def test_a_volume_that_cannot_be_mounted(case: str) -> None:
    heard, expected = VOLUMES[case]
    found = explain(unmounted("2026-01-01T11:59:50Z"), Circumstances(NOW, {"p": [heard]}))
    assert found is not None and (found.kind, found.reason, found.message) == expected


def test_the_first_seconds_are_not_told() -> None:
    fresh = unmounted("2026-01-01T11:59:58Z")
    assert puzzling([fresh], NOW) == []
    found = explain(fresh, Circumstances(NOW, {"p": [UNMOUNTED]}))
    assert found is not None and found.reason == "ContainerCreating"


def test_when_time_alone_makes_a_difference() -> None:
    assert next_turn([unmounted("2026-01-01T11:59:58Z")], NOW) == 4 - 2 + 1
    assert next_turn([unmounted("2026-01-01T11:59:00Z")], NOW) is None
    assert next_turn([running("2026-01-01T11:59:30Z")], NOW) == 60 - 30 + 1
    assert next_turn([running("2026-01-01T11:59:00Z"), running("2026-01-01T11:59:50Z")], NOW) == 60 - 10 + 1
    assert next_turn([running("2026-01-01T11:58:20Z")], NOW) == 600 - 100 + 1
    assert next_turn([running("2026-01-01T11:00:00Z")], NOW) is None
    assert next_turn([pod(ready=True)], NOW) is None
