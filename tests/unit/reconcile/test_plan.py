"""What is done about a child: depends on what should be, what is, and whose it is."""

from typing import Any

import pytest

from moorage.desired.digest import stamp
from moorage.reconcile.plan import Action, plan_child

OWNER = {"kind": "ModelDeployment", "metadata": {"name": "a", "namespace": "ns", "uid": "o1"}}
LABELS = {"app.kubernetes.io/managed-by": "moorage", "moorage.dev/model-deployment": "a"}


def service(port: int = 80, **metadata: Any) -> dict[str, Any]:
    reference = {"kind": "ModelDeployment", "name": "a", "uid": "o1", "controller": True}
    meta = {"name": "a", "namespace": "ns", "labels": LABELS, "ownerReferences": [reference], **metadata}
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"ports": [{"port": port}]}}


def live(manifest: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {**manifest, "metadata": {**manifest["metadata"], "uid": "c1", "resourceVersion": "1", **metadata}}


def controlled_by(kind: str, name: str, uid: str) -> list[dict[str, Any]]:
    return [{"kind": kind, "name": name, "uid": uid, "controller": True}]


def action(desired: dict[str, Any], found: dict[str, Any] | None, **more: Any) -> Action:
    return plan_child(OWNER, desired, found, more.pop("satisfied", lambda *_: False), **more).action


WANTED = stamp(service())


def test_a_missing_child_is_made() -> None:
    assert action(WANTED, None) is Action.APPLY


def test_a_child_that_is_as_it_should_be_costs_nothing() -> None:
    assert action(WANTED, live(WANTED)) is Action.KEEP


def test_a_new_wish_is_applied() -> None:
    step = plan_child(OWNER, WANTED, live(stamp(service(port=81))), lambda *_: False)
    assert (step.action, step.reason) == (Action.APPLY, "it should be different")


def test_somebody_elses_change_is_taken_back() -> None:
    edited = live(WANTED)
    edited["spec"] = {"ports": [{"port": 99}]}
    step = plan_child(OWNER, WANTED, edited, lambda *_: False)
    assert (step.action, step.reason) == (Action.APPLY, "somebody changed it")


def test_what_the_api_server_writes_in_its_own_way_is_applied_once() -> None:
    other = live(WANTED)
    other["spec"] = {"ports": [{"port": 99}]}
    assert action(WANTED, other, satisfied=lambda *_: True) is Action.KEEP


@pytest.mark.parametrize(
    "owners",
    [
        controlled_by("StatefulSet", "db", "x"),
        controlled_by("ModelDeployment", "other", "o9"),
        [],
    ],
)
def test_a_child_of_somebody_else_is_refused(owners: list[dict[str, Any]]) -> None:
    foreign = live(WANTED, ownerReferences=owners, labels={"app": "shop"})
    step = plan_child(OWNER, WANTED, foreign, lambda *_: False)
    assert step.action is Action.REFUSE
    assert step.reason.startswith("Service a exists and belongs to ")


def test_a_child_of_a_former_resource_of_this_name_makes_room_first() -> None:
    former = live(WANTED, ownerReferences=controlled_by("ModelDeployment", "a", "o0"))
    assert action(WANTED, former) is Action.DELETE


def test_a_child_that_lost_its_owner_is_taken_back_in() -> None:
    assert action(WANTED, live(WANTED, ownerReferences=[])) is Action.APPLY


def test_a_run_that_lost_its_owner_is_not_this_run() -> None:
    assert action(WANTED, live(WANTED, ownerReferences=[]), verdict=lambda *_: "Nothing") is Action.DELETE


def test_a_child_on_its_way_out_is_waited_for() -> None:
    leaving = live(WANTED, deletionTimestamp="2026-01-01T00:00:00Z", ownerReferences=[])
    assert action(WANTED, leaving) is Action.WAIT


@pytest.mark.parametrize(
    ("verdict", "expected"), [("Recreate", Action.DELETE), ("Keep", Action.KEEP), ("Apply", Action.APPLY)]
)
def test_what_cannot_be_changed_in_place_is_judged_by_its_own_rule(verdict: str, expected: Action) -> None:
    assert action(WANTED, live(stamp(service(port=81))), verdict=lambda *_: verdict) is expected
