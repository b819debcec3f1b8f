"""A table of bad input: what is applied, and what its status must come to say, within how long.

All cases are applied at once and watched together, so a table costs as much time as its slowest case.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster import Cluster
from support import deploy
from support.resources import Manifest

KINDS = ("ModelDeployment", "TrainingJob")


@dataclass(frozen=True)
class Case:
    """`manifest` must come to show the condition with this reason; `words` have to be in its message.

    `failure`: the same must stand in `lastFailure`, as it does wherever something went wrong and is not only awaited.
    """

    manifest: Manifest
    type: str
    status: str
    reason: str
    words: str
    namespace: str = ""
    """Which of the test's namespaces, where they differ."""
    failure: bool = True
    stalled: bool = False
    last: Mapping[str, Any] = field(default_factory=dict)
    """More that `lastFailure` has to say."""


@dataclass
class Shown:
    """What became of a case: when there was something to see in the cluster, when its status said so, and how."""

    event: float | None = None
    told: float | None = None
    obj: Manifest | None = None

    @property
    def seconds(self) -> float:
        """From the event to the words; both as a client of the API server sees them."""
        assert self.told is not None and self.event is not None
        return max(0.0, self.told - self.event)


Happened = Callable[[Manifest, list[Manifest]], bool]
"""Whether the resource's pods show that something went wrong."""


def watch(
    cluster: Cluster, cases: Mapping[str, Case], namespaces: Mapping[str, str], happened: Happened, *, timeout: float
) -> dict[str, Shown]:
    """Applies all cases and looks every half second until each of them has shown what it must, or time is up."""
    shown = {name: Shown() for name in cases}
    for short, namespace in namespaces.items():
        items = [case.manifest for case in cases.values() if case.namespace == short]
        together = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
        # Not by the client alone: it would write everything into an annotation once more, which has a limit.
        cluster.kubectl("apply", "--server-side", "-n", namespace, "-f", "-", input=together)
    end = time.monotonic() + timeout
    while any(one.told is None for one in shown.values()) and time.monotonic() < end:
        seen = {namespace: deploy.items(cluster, "mdep,tjob,pods", namespace) for namespace in namespaces.values()}
        now = time.monotonic()
        for name, case in cases.items():
            _note(shown[name], case, seen[namespaces[case.namespace]], happened, now)
        time.sleep(0.5)
    return shown


def _note(shown: Shown, case: Case, seen: list[Manifest], happened: Happened, now: float) -> None:
    kind, name = case.manifest["kind"], case.manifest["metadata"]["name"]
    label = "moorage.dev/model-deployment" if kind == "ModelDeployment" else "moorage.dev/training-job"
    obj = next((o for o in seen if o["kind"] == kind and o["metadata"]["name"] == name), None)
    pods = [o for o in seen if o["kind"] == "Pod" and (o["metadata"].get("labels") or {}).get(label) == name]
    if obj is None:
        return
    if shown.event is None and happened(obj, pods):
        shown.event = now
    if shown.told is None:
        shown.obj = obj
        condition = deploy.condition(obj, case.type)
        if (condition["status"], condition["reason"]) == (case.status, case.reason) and deploy.current(obj):
            shown.told = now
            # Looks are half a second apart: both may come between two of them.
            shown.event = shown.event or now


def check(case: Case, shown: Shown) -> None:
    """What every case has to fulfil."""
    assert shown.obj is not None
    status = shown.obj.get("status") or {}
    told = json.dumps(status, indent=1)
    assert shown.told is not None, f"never {case.type}={case.status} {case.reason}:\n{told}"
    condition = deploy.condition(shown.obj, case.type)
    assert case.words in condition["message"], told
    assert len(condition["message"]) < 5000
    assert "CrashLoopBackOff" not in condition["message"], "the kubelet's patience is no cause"
    assert deploy.condition(shown.obj, "Stalled")["status"] == ("True" if case.stalled else "False"), told
    if case.failure:
        last = status.get("lastFailure") or {}
        assert last.get("reason") == case.reason, told
        assert case.words in last["message"], told
        for key, value in case.last.items():
            assert last.get(key) == value, told
