"""One reconcile of a TrainingJob: make the Job, follow it, and keep its result for ever.

A TrainingJob is one run. When its status says that it ended, nothing is made any more, even though its Job may be gone.
"""

from __future__ import annotations

from collections.abc import Callable

from moorage.api.facts import Problem
from moorage.api.names import TRAINING_LABEL, train_name
from moorage.api.trainingjob import TrainingJob
from moorage.desired import training
from moorage.desired.defaults import Defaults
from moorage.kube.client import Client
from moorage.kube.errors import NotFound
from moorage.kube.kinds import JOB, POD, Key
from moorage.reconcile.children import Children, Done, attempt
from moorage.reconcile.eventreader import EventReader
from moorage.reconcile.outcome import SOON, TAKEN_LOOK, Outcome
from moorage.reconcile.plan import Standing, standing
from moorage.reconcile.progress import ProgressWatch
from moorage.reconcile.store import Object, Store
from moorage.status.kubelet import Hearsay
from moorage.status.training import TrainingObserved, compute, silent


class Training:
    def __init__(
        self,
        client: Client,
        store: Store,
        children: Children,
        progress: ProgressWatch,
        events: EventReader,
        defaults: Callable[[], Defaults],
    ) -> None:
        self._client, self._store, self._children = client, store, children
        self._progress, self._events, self._defaults = progress, events, defaults

    async def reconcile(self, key: Key, obj: Object, now: str) -> Outcome:
        tj = TrainingJob.parse(obj)
        if tj.finished:
            self.leave(key)
            job = self._job(key, obj)
            await self._retire(tj, job)
            return Outcome(compute(tj, TrainingObserved(job=job), now))
        done = await attempt(self._make(key, obj, tj))
        job = self._job(key, obj)
        pods = self._store.controlled_by(job["metadata"]["uid"]) if job is not None else []
        if job is not None and not _ended(job):
            self._progress.follow(key)
        heard, again = await self._listen(job, pods, now)
        status = compute(tj, TrainingObserved(job, pods, self._progress.last(key), done.problem, heard), now)
        if status.get("completionTime"):
            return Outcome(status, again=SOON)  # once that is written, the Job may go
        if done.taken:
            return Outcome(status, TAKEN_LOOK)
        return Outcome(status, SOON if done.waiting else again, done.failed)

    async def _make(self, key: Key, obj: Object, tj: TrainingJob) -> Done:
        desired = training.children(tj, self._defaults())
        return await self._children.converge(
            obj, desired, {JOB.kind: training.verdict}, {JOB.kind: lambda: self._former_workers(key)}
        )

    async def _listen(self, job: Object | None, pods: list[Object], now: str) -> tuple[Hearsay, float | None]:
        """What others say of pods that wait, or of a Job that has none."""
        if job is None or pods or _ended(job):
            return await self._events.of(pods, now)
        asked = silent(job, pods, now)
        return await self._events.about(asked) if asked else ({}, SOON)

    async def _retire(self, tj: TrainingJob, job: Object | None) -> None:
        """Let Kubernetes remove the Job in time. Its end is in the status by now, so it may vanish."""
        patch = training.retire(tj, job)
        if patch is None or job is None:
            return
        namespace, name, uid = (job["metadata"][field] for field in ("namespace", "name", "uid"))
        try:
            answer = await self._client.patch(JOB, namespace, name, {"metadata": {"uid": uid}, **patch})
        except NotFound:
            return
        self._store.learn(answer)

    def leave(self, key: Key) -> None:
        """Ended or deleted: nothing of it is worth remembering."""
        self._progress.leave(key)
        self._children.leave(key)

    def _job(self, key: Key, owner: Object) -> Object | None:
        """This run's Job. One that is on its way out, or of a former life, is no source of truth."""
        job = self._store.get(Key(JOB.kind, key.namespace, train_name(key.name)))
        if job is None or "deletionTimestamp" in job["metadata"] or standing(owner, job) is not Standing.OURS:
            return None
        return job

    async def _former_workers(self, key: Key) -> Problem | None:
        """Where there is no Job there must be no worker: it would answer by the name of a new one, and write where
        that one writes."""
        # Asked of the API server: a watch may be a moment behind, and a moment is too long here.
        pods = (await self._client.list(POD, key.namespace, labels=f"{TRAINING_LABEL}={key.name}")).items
        left = sorted(pod["metadata"]["name"] for pod in pods if not _over(pod))
        if not left:
            return None
        words = f"workers of an earlier run are still being stopped: {', '.join(left[:3])}"
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        return Problem("WaitingForFormerWorkers", f"{words}{more}; on a lost node: delete them by force", final=False)


def _over(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def _ended(job: Object) -> bool:
    conditions = (job.get("status") or {}).get("conditions") or ()
    return any(c["type"] in ("Complete", "Failed") and c["status"] == "True" for c in conditions)
