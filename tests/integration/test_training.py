"""The life of a TrainingJob where pods are only said to run: from the Job to its result, and never twice."""

import json
from typing import Any

from cluster import Cluster
from support import deploy
from support.operator_process import OperatorProcess
from support.resources import model_deployment, training_job, without_volumes

NOWHERE = {"spec": {"nodeSelector": {"kubernetes.io/hostname": "nowhere"}}}
REMOTE: dict[str, Any] = {"data": {"uri": "https://data.example/x.csv"}}


def pods(api: Cluster, ns: str, name: str) -> list[dict[str, Any]]:
    return deploy.items(api, "pods", ns, f"moorage.dev/training-job={name}")


def ends(api: Cluster, ns: str, pod: dict[str, Any], code: int, message: dict[str, Any]) -> None:
    """What a kubelet would say of a pod that ran to its end. No node has it, so nobody else says anything."""
    container = pod["spec"]["containers"][0]["name"]
    terminated = {
        "exitCode": code,
        "reason": "Completed" if code == 0 else "Error",
        "message": json.dumps(message),
        "finishedAt": "2026-01-01T00:00:00Z",
    }
    state = {
        "name": container, "image": "x", "imageID": "", "ready": False, "restartCount": 0,
        "state": {"terminated": terminated},
    }  # fmt: skip
    status = {"status": {"phase": "Succeeded" if code == 0 else "Failed", "containerStatuses": [state]}}
    api.kubectl(
        "patch",
        "pod",
        pod["metadata"]["name"],
        "-n",
        ns,
        "--subresource=status",
        "--type=merge",
        "-p",
        json.dumps(status),
    )


def train(api: Cluster, ns: str, name: str, apply, *, labels: dict[str, str] | None = None) -> dict[str, Any]:
    """A training on one worker that succeeds."""
    apply(training_job(name, labels=labels, **REMOTE, podTemplate=NOWHERE))
    (pod,) = deploy.eventually(lambda: pods(api, ns, name), 20, "the worker's pod")
    output = {"uri": f"pvc://models/{name}/1", "sha256": "ab" * 32, "sizeBytes": 1234}
    ends(api, ns, pod, 0, {"reason": "Succeeded", "output": output, "metrics": {"accuracy": 0.97}})
    return deploy.wait_for_condition(api, "tjob", name, "Succeeded", namespace=ns)


def test_workers_run_and_the_job_completes(api: Cluster, operator: OperatorProcess, ns: str, apply) -> None:
    apply(training_job(**REMOTE, output={"uri": "s3://models/digits/1"}, workers=2))
    done = deploy.wait_for_condition(api, "tjob", "digits", "Succeeded", namespace=ns)
    assert done["status"]["completionTime"]
    job = deploy.get(api, "job", "digits-train", ns)
    assert job is not None
    assert (job["spec"]["completions"], job["spec"]["parallelism"], job["spec"]["completionMode"]) == (2, 2, "Indexed")
    service = deploy.get(api, "service", "digits-train", ns)
    assert service is not None and service["spec"]["clusterIP"] == "None"


def test_the_result_is_in_the_status_and_stays_when_the_job_is_gone(
    api: Cluster, operator: OperatorProcess, ns: str, apply
) -> None:
    done = train(api, ns, "digits", apply)
    assert done["status"]["output"] == {"uri": "pvc://models/digits/1", "sha256": "ab" * 32, "sizeBytes": 1234}
    assert done["status"]["metrics"]["accuracy"] == "0.97"

    # As a TTL would have it. The training must not be run again, not even after the operator looked at it anew.
    api.kubectl("delete", "job", "digits-train", "-n", ns)
    api.kubectl("label", "tjob", "digits", "-n", ns, "look=again")
    deploy.eventually(lambda: not pods(api, ns, "digits"), 20, "the pods are gone")
    after = deploy.get(api, "tjob", "digits", ns)
    assert after is not None
    assert after["status"]["output"] == done["status"]["output"]
    assert deploy.get(api, "job", "digits-train", ns) is None


def test_a_failure_is_told_in_the_programs_words(api: Cluster, operator: OperatorProcess, ns: str, apply) -> None:
    apply(training_job(**REMOTE, podTemplate=NOWHERE))
    (pod,) = deploy.eventually(lambda: pods(api, ns, "digits"), 20, "the worker's pod")
    said = {"reason": "DataInvalid", "message": "train.csv has no column y", "rank": 0}
    ends(api, ns, pod, 65, said)
    failed = deploy.wait_for_condition(api, "tjob", "digits", "Succeeded", "False", namespace=ns)
    assert deploy.condition(failed, "Succeeded")["reason"] == "DataInvalid"
    assert failed["status"]["lastFailure"]["message"] == "train.csv has no column y"
    assert failed["status"]["lastFailure"]["exitCode"] == 65


def test_other_resources_for_the_pods_start_the_training_anew(
    api: Cluster, operator: OperatorProcess, ns: str, apply
) -> None:
    wish = {**REMOTE, "podTemplate": NOWHERE}
    apply(training_job(**wish))
    first = deploy.eventually(lambda: deploy.get(api, "job", "digits-train", ns), 20, "the Job")
    apply(training_job(**wish, resources={"requests": {"cpu": "2"}}))
    second = deploy.eventually(
        lambda: (
            (job := deploy.get(api, "job", "digits-train", ns))
            and job["metadata"]["uid"] != first["metadata"]["uid"]
            and job
        ),
        30,
        "another Job",
    )
    assert second["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"] == "2"


def test_a_recreated_training_runs_again(api: Cluster, operator: OperatorProcess, ns: str, apply) -> None:
    first = train(api, ns, "digits", apply)
    api.kubectl("delete", "tjob", "digits", "-n", ns)
    apply(training_job("digits", **REMOTE, podTemplate=NOWHERE))

    def runs() -> bool:
        job, owner = deploy.get(api, "job", "digits-train", ns), deploy.get(api, "tjob", "digits", ns)
        return bool(job and owner and job["metadata"]["ownerReferences"][0]["uid"] == owner["metadata"]["uid"])

    deploy.eventually(runs, 30, "a Job of the new TrainingJob")
    now = deploy.get(api, "tjob", "digits", ns)
    assert now is not None and now["metadata"]["uid"] != first["metadata"]["uid"]
    assert "output" not in now["status"]


def test_a_recreated_training_waits_for_the_workers_of_the_one_before(
    api: Cluster, operator: OperatorProcess, ns: str, apply
) -> None:
    wish = training_job(**REMOTE, podTemplate=NOWHERE)
    apply(wish)
    (worker,) = deploy.eventually(lambda: pods(api, ns, "digits"), 20, "the worker's pod")
    name = worker["metadata"]["name"]

    def hold(*finalizers: str) -> None:
        held = {"metadata": {"finalizers": [*worker["metadata"].get("finalizers", []), *finalizers]}}
        api.kubectl("patch", "pod", name, "-n", ns, "--type=merge", "-p", json.dumps(held))

    hold("example.com/still-stopping")
    try:
        api.kubectl("delete", "tjob", "digits", "-n", ns)
        deploy.eventually(lambda: deploy.get(api, "job", "digits-train", ns) is None, 60, "the Job is gone")
        apply(wish)

        def waits() -> bool:
            succeeded = deploy.condition(deploy.get(api, "tjob", "digits", ns), "Succeeded")
            return succeeded["reason"] == "WaitingForFormerWorkers" and name in succeeded["message"]

        deploy.eventually(waits, 60, "it says what it waits for")
        assert deploy.get(api, "job", "digits-train", ns) is None
    finally:  # else the namespace would stay for ever, and every test that waits for quiet would fail, too
        worker["metadata"]["finalizers"] = []
        hold()
    deploy.eventually(lambda: deploy.get(api, "job", "digits-train", ns), 60, "the Job")


def test_what_training_made_is_served(api: Cluster, operator: OperatorProcess, ns: str, apply) -> None:
    follow = {"fromTrainingJobs": {"matchLabels": {"model": "digits"}}}
    apply(model_deployment(**without_volumes(model=follow, podTemplate=NOWHERE)))
    deploy.wait_for_condition(api, "mdep", "digits", "Ready", "Unknown", namespace=ns, reason="WaitingForTraining")
    assert deploy.get(api, "deployment", "digits", ns) is None

    train(api, ns, "other", apply, labels={"model": "cars"})
    train(api, ns, "run1", apply, labels={"model": "digits"})
    first = deploy.eventually(lambda: deploy.get(api, "deployment", "digits", ns), 20, "the Deployment")
    # Children come before the status that tells of them.
    deploy.eventually(lambda: served(api, ns).get("trainingJob") == "run1", 20, "the status says whose model")

    train(api, ns, "run2", apply, labels={"model": "digits"})
    deploy.eventually(lambda: served(api, ns).get("trainingJob") == "run2", 20, "the newer model")
    second = deploy.get(api, "deployment", "digits", ns)
    assert second is not None
    assert second["metadata"]["uid"] == first["metadata"]["uid"]
    assert second["metadata"]["generation"] > first["metadata"]["generation"]

    api.kubectl("delete", "tjob", "run1", "-n", ns)
    api.kubectl("delete", "tjob", "run2", "-n", ns)
    deploy.eventually(lambda: not pods(api, ns, "run2"), 20, "the trainings are gone")
    assert served(api, ns).get("trainingJob") == "run2", "a model outlives the TrainingJob that made it"
    assert deploy.get(api, "deployment", "digits", ns) is not None


def served(api: Cluster, ns: str) -> dict[str, Any]:
    found = deploy.get(api, "mdep", "digits", ns) or {}
    return dict((found.get("status") or {}).get("model") or {})


def test_a_finished_job_goes_after_its_time_and_only_when_its_end_is_written_down(
    api: Cluster, operator: OperatorProcess, ns: str, apply
) -> None:
    # With 0 Kubernetes would remove the Job the moment it completes: seen as missing, it would be run for ever.
    apply(training_job(**REMOTE, podTemplate=NOWHERE, ttlSecondsAfterFinished=0))
    (pod,) = deploy.eventually(lambda: pods(api, ns, "digits"), 20, "the worker's pod")
    assert "ttlSecondsAfterFinished" not in deploy.get(api, "job", "digits-train", ns)["spec"]  # type: ignore[index]
    ends(api, ns, pod, 0, {"reason": "Succeeded", "metrics": {"accuracy": 0.5}})
    done = deploy.wait_for_condition(api, "tjob", "digits", "Succeeded", namespace=ns)
    assert done["status"]["metrics"] == {"accuracy": "0.5"}
    deploy.eventually(lambda: deploy.get(api, "job", "digits-train", ns) is None, 20, "the Job is gone")
    deploy.eventually(lambda: not pods(api, ns, "digits"), 20, "so are its pods, and no others came")
