"""A table of bad input: what is applied, and what its status must come to say, within how long.

Cases are applied and watched together, so a table costs little more time than its slowest case.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster import Cluster
from support import deploy
from support.resources import Manifest

Event = Callable[[list[Manifest]], bool]
"""Whether the resource's pods show that something went wrong."""


def at_once(_pods: list[Manifest]) -> bool:
    """It is wrong as soon as it is applied."""
    return True


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
    event: Event = at_once


@dataclass
class Shown:
    """What became of a case: when something went wrong, when its status said so, and how it stood at the end."""

    event: float | None = None
    told: float | None = None
    obj: Manifest | None = None
    complete: bool = False

    @property
    def seconds(self) -> float:
        """From the event to the words; both as a client of the API server sees them."""
        assert self.told is not None and self.event is not None
        return max(0.0, self.told - self.event)


def watch(
    cluster: Cluster,
    cases: Mapping[str, Case],
    namespaces: Mapping[str, str],
    *,
    timeout: float,
    at_a_time: int = 1000,
    finished: Callable[[str], None] = lambda name: None,
) -> dict[str, Shown]:
    """Applies cases and looks every half second until each has shown what it must, or its seconds are over.

    As one is `finished` the next begins, where only some may be there at the same time.
    """
    shown = {name: Shown() for name in cases}
    waiting, begun = list(cases), dict[str, float]()
    while waiting or begun:
        now = time.monotonic()
        free = at_a_time - len(begun)
        _apply(cluster, [cases[name] for name in waiting[:free]], namespaces)
        begun |= dict.fromkeys(waiting[:free], now)
        waiting = waiting[free:]
        seen = {namespace: deploy.items(cluster, "mdep,tjob,pods", namespace) for namespace in namespaces.values()}
        now = time.monotonic()
        for name in list(begun):
            _note(shown[name], cases[name], seen[namespaces[cases[name].namespace]], now)
            if shown[name].complete or now - begun[name] > timeout:
                del begun[name]
                finished(name)
        time.sleep(0.5)
    return shown


def _apply(cluster: Cluster, cases: Sequence[Case], namespaces: Mapping[str, str]) -> None:
    for short, namespace in namespaces.items():
        items = [case.manifest for case in cases if case.namespace == short]
        if items:
            together = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
            # Not by the client alone: it would write everything into an annotation once more, which has a limit.
            cluster.kubectl("apply", "--server-side", "-n", namespace, "-f", "-", input=together)


def _note(shown: Shown, case: Case, seen: list[Manifest], now: float) -> None:
    kind, name = case.manifest["kind"], case.manifest["metadata"]["name"]
    label = "moorage.dev/model-deployment" if kind == "ModelDeployment" else "moorage.dev/training-job"
    obj = next((o for o in seen if o["kind"] == kind and o["metadata"]["name"] == name), None)
    pods = [o for o in seen if o["kind"] == "Pod" and (o["metadata"].get("labels") or {}).get(label) == name]
    if obj is None:
        return
    if shown.event is None and case.event(pods):
        shown.event = now
    condition = deploy.condition(obj, case.type)
    last = (obj.get("status") or {}).get("lastFailure") or {}
    shown.obj = obj
    shown.complete = (condition["status"], condition["reason"]) == (case.status, case.reason) and deploy.current(obj)
    if shown.told is None and (shown.complete or last.get("reason") == case.reason):
        shown.told = now
        # Looks are some time apart: both may come between two of them.
        shown.event = shown.event or now


def check(case: Case, shown: Shown) -> None:
    """What every case has to fulfil."""
    assert shown.obj is not None
    status = shown.obj.get("status") or {}
    told = json.dumps(status, indent=1)
    assert shown.complete, f"never {case.type}={case.status} {case.reason}:\n{told}"
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
