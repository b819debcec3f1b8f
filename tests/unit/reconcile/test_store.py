"""The store keeps the newest of what it is told, by whom ever, and notices what watches keep from it."""

from typing import Any

from moorage.kube.kinds import DEPLOYMENT, Key
from moorage.reconcile.store import LAST_APPLIED, Store

KEY = Key("Deployment", "ns", "a")


def deployment(
    name: str = "a", *, version: int, uid: str = "u1", owner: str = "", namespace: str = "ns"
) -> dict[str, Any]:
    meta: dict[str, Any] = {"name": name, "namespace": namespace, "uid": uid, "resourceVersion": str(version)}
    if owner:
        meta["ownerReferences"] = [{"kind": "ModelDeployment", "name": name, "uid": owner, "controller": True}]
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta}


def held(store: Store) -> int | None:
    obj = store.get(KEY)
    return None if obj is None else int(obj["metadata"]["resourceVersion"])


def test_the_newest_version_stays_whatever_comes_later() -> None:
    store = Store()
    assert store.put(deployment(version=5))
    assert not store.put(deployment(version=5))  # the echo of our own write
    assert not store.put(deployment(version=4))
    assert store.put(deployment(version=10))  # as numbers: 10 is newer than 5
    assert held(store) == 10


def test_an_answer_that_comes_after_the_deletion_brings_nothing_back() -> None:
    store = Store()
    store.put(deployment(version=5))
    store.remove(deployment(version=7))
    assert not store.put(deployment(version=6))
    assert held(store) is None
    assert store.put(deployment(version=8, uid="u2"))


def test_the_deletion_of_a_former_object_does_not_take_its_successor() -> None:
    store = Store()
    store.put(deployment(version=9, uid="u2"))
    store.remove(deployment(version=7, uid="u1"))
    assert held(store) == 9


def test_it_is_slim() -> None:
    store = Store()
    obj = deployment(version=1)
    obj["metadata"]["managedFields"] = [{"manager": "kubectl"}]
    obj["metadata"]["annotations"] = {LAST_APPLIED: "{}", "kept": "yes"}
    store.put(obj)
    kept = store.get(KEY)
    assert kept is not None
    assert "managedFields" not in kept["metadata"]
    assert kept["metadata"]["annotations"] == {"kept": "yes"}
    assert "managedFields" in obj["metadata"], "the caller's object is the caller's"


def test_children_are_found_by_their_controller() -> None:
    store = Store()
    store.put(deployment("a", version=1, owner="o1"))
    store.put(deployment("b", version=2, uid="u2", owner="o1"))
    store.put(deployment("c", version=3, uid="u3", owner="o2"))
    assert {obj["metadata"]["name"] for obj in store.controlled_by("o1")} == {"a", "b"}
    store.put(deployment("b", version=4, uid="u2"))  # it lost its owner
    store.remove(deployment("a", version=5))
    assert store.controlled_by("o1") == []


def test_a_list_prunes_what_vanished_unseen() -> None:
    store = Store()
    store.put(deployment("a", version=1))
    store.put(deployment("b", version=2, uid="u2"))
    vanished = store.prune(DEPLOYMENT, {Key("Deployment", "ns", "b")}, 9)
    assert [obj["metadata"]["name"] for obj in vanished] == ["a"]
    assert held(store) is None


def test_a_list_leaves_what_is_newer_than_itself() -> None:
    store = Store()
    store.put(deployment(version=10))  # made by us while the list was on its way
    assert store.prune(DEPLOYMENT, set(), 9) == []
    assert held(store) == 10


def test_a_list_of_one_namespace_says_nothing_of_the_others() -> None:
    store = Store()
    store.put(deployment(version=1))
    store.put(deployment(version=2, namespace="other", uid="u2"))
    assert [obj["metadata"]["namespace"] for obj in store.prune(DEPLOYMENT, set(), 9, "ns")] == ["ns"]


def test_of_a_pod_it_keeps_what_tells_why_it_waits() -> None:
    store = Store()
    spec = {"containers": [{"name": "c"}], "restartPolicy": "Never", "volumes": [{"name": "v"}]}
    meta = {"name": "p", "namespace": "ns", "uid": "p", "resourceVersion": "1"}
    store.put({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec, "status": {"phase": "Pending"}})
    kept = store.get(Key("Pod", "ns", "p")) or {}
    assert kept["spec"] == {"restartPolicy": "Never", "volumes": [{"name": "v"}]}
    assert kept["status"] == {"phase": "Pending"}


def test_what_it_gives_out_is_the_callers_own() -> None:
    store = Store()
    store.put(deployment(version=1))
    (store.get(KEY) or {})["metadata"]["name"] = "changed"
    assert (store.get(KEY) or {})["metadata"]["name"] == "a"


def test_resources_are_found_by_what_the_loops_ask_for() -> None:
    store = Store()

    def model(name: str, version: int, **spec: Any) -> None:
        meta = {"name": name, "namespace": "ns", "uid": name, "resourceVersion": str(version)}
        store.put({"kind": "ModelDeployment", "apiVersion": "v1", "metadata": meta, "spec": spec})

    model("fixed", 1, model={"uri": "pvc://a/b"})
    model("scaled", 2, scaling={"maxReplicas": 3})
    model("follower", 3, model={"fromTrainingJobs": {"matchLabels": {"a": "b"}}})
    assert [key.name for key in store.keys_by("scaled")] == ["scaled"]
    assert [key.name for key in store.keys_by("follower", "ns")] == ["follower"]
    assert store.keys_by("follower", "other") == []
    model("scaled", 4)
    assert store.keys_by("scaled") == []


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_watch_that_is_silent_while_it_owes_a_change_is_noticed() -> None:
    clock = Clock()
    store = Store(clock=clock)
    store.watched(deployment(version=3))
    store.owe(deployment(version=5))
    clock.now = 40
    assert store.lag() == (40, "Deployment")
    store.watched(deployment(version=4))  # behind, but alive
    clock.now = 50
    assert store.lag() == (10, "Deployment")
    store.watched(deployment(version=6))
    assert store.lag() == (0, "")


def test_a_change_that_was_watched_before_it_was_answered_owes_nothing() -> None:
    store = Store(clock=Clock())
    store.watched(deployment(version=5))
    store.owe(deployment(version=5))
    assert store.lag() == (0, "")


def test_what_the_list_had_at_which_a_watch_begins_is_not_owed() -> None:
    clock = Clock()
    store = Store(clock=clock)
    store.owe(deployment(version=5))
    store.reached(DEPLOYMENT, None, 7)
    assert store.lag() == (0, "")
    store.owe(deployment(version=6))
    assert store.lag() == (0, "")
    store.owe(deployment(version=8))
    clock.now = 9
    assert store.lag() == (9, "Deployment")


def test_with_watches_for_each_namespace_one_that_is_dead_does_not_hide_behind_another() -> None:
    clock = Clock()
    store = Store(scoped=True, clock=clock)
    store.owe(deployment(version=5))
    store.watched(deployment(version=9, namespace="other"))
    clock.now = 70
    assert store.lag()[0] == 70
