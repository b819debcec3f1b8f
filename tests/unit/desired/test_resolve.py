"""Which model is served: the newest that training made, and what was served when training is gone."""

from typing import Any

from moorage.api.facts import ResolvedModel, Waiting
from moorage.api.modeldeployment import ModelDeployment
from moorage.desired.model import resolve


def deployment(
    model: dict[str, Any] | None, status: dict[str, Any] | None = None, generation: int = 1
) -> ModelDeployment:
    spec: dict[str, Any] = (
        {"runtime": {"torch": {}}} if model else {"runtime": {"container": {"image": "x", "port": 1}}}
    )
    if model:
        spec["model"] = model
    metadata = {"name": "d", "namespace": "n", "generation": generation}
    return ModelDeployment.parse({"metadata": metadata, "spec": spec, "status": status or {}})


def job(name: str, *, done: str | None = "2026-01-01T00:00:00Z", namespace: str = "n", **more: Any) -> dict[str, Any]:
    conditions = [{"type": "Succeeded", "status": "True" if done else "Unknown"}]
    status = {"completionTime": done, "conditions": conditions, "output": {"uri": f"s3://m/{name}", "sha256": name}}
    return {
        "metadata": {"name": name, "namespace": namespace, "labels": {"model": "d", "extra": "1"}, **more},
        "spec": {"output": {"format": "TorchScript", "secretRef": {"name": "store"}}},
        "status": status if done else {"conditions": conditions},
    }


FOLLOW = {"fromTrainingJobs": {"matchLabels": {"model": "d"}}}


def test_a_uri_is_taken_as_it_is() -> None:
    assert resolve(deployment({"uri": "pvc://m/1"}), []) == ResolvedModel("pvc://m/1", "TorchExport", "1")


def test_a_container_may_have_no_model() -> None:
    assert resolve(deployment(None), []) == ResolvedModel(None, "", "1")


def test_the_newest_that_succeeded_with_format_digest_and_credentials() -> None:
    jobs = [
        job("old", done="2026-01-01T00:00:00Z"),
        job("new", done="2026-01-03T00:00:00Z"),
        job("running", done=None),
        job("leaving", done="2026-01-09T00:00:00Z", deletionTimestamp="x"),
        job("elsewhere", done="2026-01-09T00:00:00Z", namespace="other"),
        job("unlike", done="2026-01-09T00:00:00Z", labels={"model": "e"}),
    ]
    expected = ResolvedModel("s3://m/new", "TorchScript", "new", "new", "store", "new")
    assert resolve(deployment(FOLLOW), jobs) == resolve(deployment(FOLLOW), jobs[::-1]) == expected


def test_the_users_version_and_secret_come_first() -> None:
    model = resolve(deployment({**FOLLOW, "version": "7", "secretRef": {"name": "mine"}}), [job("a")])
    assert isinstance(model, ResolvedModel)
    assert (model.version, model.secret) == ("7", "mine")


def test_waiting_says_for_what() -> None:
    nothing = resolve(deployment(FOLLOW), [])
    assert nothing == Waiting("WaitingForTraining", "no TrainingJob with the labels model=d")
    running = resolve(deployment(FOLLOW), [job("b", done=None), job("a", done=None)])
    assert running == Waiting("WaitingForTraining", "no TrainingJob with the labels model=d has succeeded yet: a, b")


def test_waiting_says_what_keeps_a_training() -> None:
    stuck = job("b", done=None)
    secret = {"type": "Succeeded", "status": "Unknown", "reason": "SecretNotFound", "message": 'secret "s" not found'}
    stuck["status"] = {**stuck.get("status", {}), "conditions": [secret]}
    waiting = resolve(deployment(FOLLOW), [stuck, job("a", done=None)])
    assert isinstance(waiting, Waiting)
    assert waiting.message.endswith('has succeeded yet: a, b (SecretNotFound: secret "s" not found)')


def test_a_deleted_training_does_not_take_its_model_out_of_service() -> None:
    first = resolve(deployment(FOLLOW), [job("a")])
    assert isinstance(first, ResolvedModel)
    from moorage.status.serving import ServingObserved, compute

    status = compute(deployment(FOLLOW), ServingObserved(model=first), "2026-01-01T00:00:00Z")
    assert resolve(deployment(FOLLOW, status), []) == first


def test_nor_does_a_change_of_something_else_meanwhile() -> None:
    """Replicas, say: the generation is another, and the question is the same."""
    labels = FOLLOW["fromTrainingJobs"]["matchLabels"]
    status = {"observedGeneration": 1, "model": {"uri": "s3://m/a", "trainingJob": "a", "matchLabels": labels}}
    kept = resolve(deployment(FOLLOW, status, generation=2), [])
    assert isinstance(kept, ResolvedModel) and kept.uri == "s3://m/a"
    mine = {**FOLLOW, "version": "7", "secretRef": {"name": "mine"}}
    kept = resolve(deployment(mine, status, generation=3), [])
    assert isinstance(kept, ResolvedModel) and (kept.version, kept.secret) == ("7", "mine")


def test_but_another_question_gets_no_old_answer() -> None:
    """Not even once the status has seen the new question: it keeps the old model while it waits."""
    model = {"uri": "s3://m/a", "trainingJob": "a", "matchLabels": {"model": "other"}}
    for observed in (1, 2):
        status = {"observedGeneration": observed, "model": model}
        assert isinstance(resolve(deployment(FOLLOW, status, generation=2), []), Waiting)
