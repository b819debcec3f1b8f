"""A ModelDeployment's status from its Deployment, and while that is not healthy from its ReplicaSets and pods.

Only pods of the current generation count: the ReplicaSet whose template is the Deployment's. Ready is Unknown while
something is on its way and False on failure. Nothing moves by itself: the same observation gives the same status, so a
healthy deployment is never written to.
"""

from typing import Any

from moorage.api.conditions import clip, find, renewed
from moorage.api.facts import Decision, ResolvedModel, Waiting
from moorage.api.modeldeployment import ModelDeployment
from moorage.api.names import MODEL_LABEL, service_url
from moorage.status import cold_start, verdict
from moorage.status.finding import Finding
from moorage.status.kubelet import Circumstances
from moorage.status.observed import ServingObserved
from moorage.status.pods import findings
from moorage.status.rollout import Rollout, newest, rollout
from moorage.status.verdict import Verdict

__all__ = ["ServingObserved", "compute", "settled"]

Object = dict[str, Any]

_HISTORY = 10
# Of a text in the schema; the words of a Prometheus error may be longer.
_LONGEST = 1024


def settled(md: ModelDeployment, deployment: Object | None) -> bool:
    """Healthy and complete, from the Deployment alone: no pods need to be looked at."""
    if deployment is None:
        return False
    status, wanted = deployment.get("status") or {}, deployment["spec"].get("replicas", 1)
    counts = [status.get(key) or 0 for key in ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")]
    return bool(
        status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
        and all(count == wanted for count in counts)
        and not deployment["metadata"].get("deletionTimestamp")
        and (md.spec.scaling is not None or wanted == md.replicas)
    )


def compute(md: ModelDeployment, observed: ServingObserved, now: str) -> dict[str, Any]:
    old = md.status
    desired = _desired(md, observed)
    calm = settled(md, observed.deployment)
    seen = rollout(observed.deployment, observed.replica_sets, observed.pods, calm=calm)
    template: Object = (observed.deployment or {}).get("spec", {}).get("template", {})
    trouble = findings(seen.pods, Circumstances(now, observed.heard, template.get("spec") or {}))
    state = verdict.judge(observed, seen, trouble, desired)
    ladder = _cold_start(observed, old)

    status: dict[str, Any] = {
        "observedGeneration": md.metadata.generation,
        "replicas": seen.replicas,
        "readyReplicas": seen.ready,
        "updatedReplicas": seen.updated,
        "desiredReplicas": desired,
        "replicasSummary": f"{seen.ready}/{desired}",
        "selector": f"{MODEL_LABEL}={md.metadata.name}",
        "runtime": md.spec.runtime.name,
        "url": service_url(md.metadata.name, md.metadata.namespace, tls=md.spec.runtime.speaks_tls),
        "model": _model(md, observed.model),
        "scaling": _scaling(md, observed.scaling, now),
        "coldStart": ladder,
        "lastFailure": _last_failure(state, old, now),
        "conditions": _conditions(md, observed, seen, trouble, state, desired, ladder, now),
    }
    return {key: value for key, value in status.items() if value is not None}


def _desired(md: ModelDeployment, observed: ServingObserved) -> int:
    if md.spec.scaling is None:
        return md.replicas
    if observed.scaling is not None:
        return observed.scaling.replicas
    if observed.deployment is not None:
        return int(observed.deployment["spec"].get("replicas", 1))
    return int(md.status.get("desiredReplicas") or md.spec.scaling.min_replicas)


def _model(md: ModelDeployment, model: ResolvedModel | Waiting | None) -> Object | None:
    if not isinstance(model, ResolvedModel):
        return md.status.get("model")
    if model.uri is None:
        return None
    asked = md.spec.model.from_training_jobs if md.spec.model else None
    found = {
        "uri": model.uri,
        "version": model.version or None,
        "format": model.format or None,
        "sha256": model.sha256,
        "trainingJob": model.training_job,
        "matchLabels": asked.match_labels if asked else None,
        "secretRef": {"name": model.secret} if model.secret else None,
    }
    return {key: value for key, value in found.items() if value is not None}


def _scaling(md: ModelDeployment, decision: Decision | None, now: str) -> Object | None:
    """The reason is that of the last change: the demand moves all the time, and a status must not."""
    if md.spec.scaling is None:
        return None
    old: Object = md.status.get("scaling") or {}
    if decision is None:
        return old or None
    before = md.status.get("desiredReplicas")
    if before is None or before == decision.replicas:
        return {**old, "reason": old.get("reason") or decision.reason[:_LONGEST]}
    reason = decision.reason[:_LONGEST]
    change = {"time": now, "from": before, "to": decision.replicas, "reason": reason}
    history = [*(old.get("history") or []), change][-_HISTORY:]
    return {"reason": reason, "lastScaleTime": now, "history": history}


def _cold_start(observed: ServingObserved, old: Object) -> Object | None:
    current = newest(observed.deployment, observed.replica_sets) if observed.deployment is not None else None
    return cold_start.compute(old.get("coldStart"), current, observed.pods, observed.server_times)


def _last_failure(state: Verdict, old: Object, now: str) -> Object | None:
    """The same failure again is no news: its time says since when."""
    before: Object | None = old.get("lastFailure")
    found = state.failure
    if found is None:
        return before
    fresh = {
        "time": found.time or now,
        "reason": found.reason,
        "message": clip(found.message),
        "pod": found.pod or None,
        "container": found.container,
        "exitCode": found.exit_code,
    }
    fresh = {key: value for key, value in fresh.items() if value is not None}
    same = ("reason", "message", "container", "exitCode")
    if before is not None and all(before.get(key) == fresh.get(key) for key in same):
        return before
    return fresh


def _conditions(
    md: ModelDeployment,
    observed: ServingObserved,
    seen: Rollout,
    trouble: list[Finding],
    state: Verdict,
    desired: int,
    ladder: Object | None,
    now: str,
) -> list[Object]:
    old = md.status.get("conditions") or []
    wanted: dict[str, tuple[str, str, str]] = {
        "Ready": (state.ready, state.reason, state.message),
        "Progressing": verdict.progressing(state),
    }
    if md.spec.model is not None:
        models = len(md.spec.runtime.models)
        wanted["ModelLoaded"] = verdict.model_loaded(observed, seen, trouble, models, ladder)
    wanted["CapacityAvailable"] = verdict.capacity(seen, trouble, desired, find(old, "CapacityAvailable"))
    if md.spec.scaling is not None:
        wanted["ScalingActive"] = _scaling_active(observed.scaling, find(old, "ScalingActive"))
    wanted["Stalled"] = verdict.stalled(state)
    return renewed(old, wanted, generation=md.metadata.generation, now=now)


def _scaling_active(decision: Decision | None, before: Object | None) -> tuple[str, str, str]:
    if decision is not None:
        return decision.active
    if before is not None:
        return before["status"], before["reason"], before["message"]
    return "Unknown", "Starting", "no decision has been made yet"
