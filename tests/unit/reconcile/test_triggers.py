"""Whose turn it is when something changed."""

from typing import Any

from moorage.kube.kinds import Key
from moorage.reconcile.store import Store
from moorage.reconcile.triggers import keys_for

SERVING, TRAINING = Key("ModelDeployment", "ns", "a"), Key("TrainingJob", "ns", "a")


def obj(kind: str, name: str = "a", namespace: str = "ns", **more: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace, "uid": f"{kind}/{namespace}/{name}", "resourceVersion": "1"}
    return {"kind": kind, "metadata": {**metadata, **more.pop("metadata", {})}, **more}


def test_a_resource_is_its_own() -> None:
    assert list(keys_for(Store(), None, obj("ModelDeployment"))) == [SERVING]


def test_a_child_is_its_owners_by_label_or_by_reference() -> None:
    labelled = obj("Service", metadata={"labels": {"moorage.dev/model-deployment": "a"}})
    reference = {"kind": "ModelDeployment", "name": "a", "uid": "o1", "controller": True}
    referring = obj("Service", metadata={"ownerReferences": [reference]})
    assert list(keys_for(Store(), None, labelled)) == [SERVING]
    assert list(keys_for(Store(), referring, None)) == [SERVING]
    assert list(keys_for(Store(), None, obj("Service"))) == []


def test_a_trainings_outcome_is_news_to_those_who_follow_it_and_its_progress_is_not() -> None:
    store = Store()
    following = {"spec": {"model": {"fromTrainingJobs": {"matchLabels": {"model": "digits"}}}}}
    store.put(obj("ModelDeployment", "follower", **following))
    store.put(obj("ModelDeployment", "elsewhere", "other", **following))
    store.put(obj("ModelDeployment", "fixed", spec={"model": {"uri": "pvc://x/y"}}))
    running = obj("TrainingJob", status={"progress": {"step": 1}})
    further = obj("TrainingJob", status={"progress": {"step": 2}})
    done = obj(
        "TrainingJob", status={"output": {"uri": "pvc://x/y"}, "conditions": [{"type": "Succeeded", "status": "True"}]}
    )
    assert list(keys_for(store, running, further)) == [TRAINING]
    assert list(keys_for(store, further, done)) == [TRAINING, Key("ModelDeployment", "ns", "follower")]
    assert Key("ModelDeployment", "ns", "follower") in keys_for(store, done, None)
