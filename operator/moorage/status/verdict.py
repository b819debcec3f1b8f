"""What all the findings about a ModelDeployment amount to: one verdict, and the conditions that say it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from moorage.api.facts import Waiting
from moorage.status import cold_start
from moorage.status.finding import Finding
from moorage.status.observed import ServingObserved
from moorage.status.refused import refusal
from moorage.status.rollout import Rollout

Text = tuple[str, str, str]

# Exit codes of docs/contracts.md that no restart will mend.
FINAL_CODES = {64, 65, 66, 78}
# A store that was away for a moment is no failure; one that stays away is.
PATIENCE = 2


@dataclass(frozen=True)
class Verdict:
    ready: str
    reason: str
    message: str
    final: bool = False
    failure: Finding | None = None


def judge(observed: ServingObserved, seen: Rollout, trouble: list[Finding], desired: int) -> Verdict:
    problem, model = observed.problem, observed.model
    if problem is not None:
        finding = Finding("Environment", problem.reason, problem.message)
        if problem.final:
            return Verdict("False", problem.reason, _with_rest(problem.message, seen), True, finding)
        return Verdict("Unknown", problem.reason, problem.message)
    if isinstance(model, Waiting):
        return Verdict("Unknown", model.reason, _with_rest(model.message, seen))
    if not seen.exists:
        return Verdict("Unknown", "Creating", "the Deployment is being made")
    if seen.ready >= desired and (seen.calm or seen.updated >= desired):
        if desired == 0:
            return Verdict("True", "ScaledToZero", "no replicas are wanted, and none exist")
        return Verdict("True", "AllReplicasReady", f"ready to take requests: {_replicas(desired)}")

    worst = worst_of([*trouble, *_refusal(seen)])
    if worst is None:
        return Verdict("Unknown", "RollingOut", _count(seen, desired))
    message = f"{_count(seen, desired)}: {worst.message}"
    if worst.kind in ("Capacity", "Waiting") or worst.reason == "ClaimNotBound":
        return Verdict("Unknown", worst.reason, message, failure=worst if worst.telling else None)
    if worst.transient and worst.restarts < PATIENCE:
        return Verdict("Unknown", worst.reason, message, failure=worst)
    final = worst.exit_code in FINAL_CODES and worst.kind == "Program"
    return Verdict("False", worst.reason, _with_rest(message, seen), final, worst)


def worst_of(trouble: Iterable[Finding]) -> Finding | None:
    """The one to tell of: failures before shortages, what the program said before what followed from it."""
    order = {"Program": 0, "Environment": 1, "Capacity": 3, "Waiting": 4}

    def rank(finding: Finding) -> tuple[int, str, str]:
        place = 2 if finding.transient else order[finding.kind]
        return place, finding.reason, finding.pod

    return min(trouble, key=rank, default=None)


def progressing(state: Verdict) -> Text:
    if state.ready == "True":
        return "False", "Complete", "nothing is on its way"
    if state.ready == "False":
        return "False", state.reason, state.message
    return "True", state.reason, state.message


def stalled(state: Verdict) -> Text:
    if state.final:
        return "True", state.reason, state.message
    return "False", "NotStalled", "the spec need not change"


def model_loaded(
    observed: ServingObserved, seen: Rollout, trouble: list[Finding], models: int, ladder: dict[str, Any] | None
) -> Text:
    """`models`: how many there are to be where it is not just one; `ladder`: what the server said of its start."""
    if isinstance(observed.model, Waiting):
        return "Unknown", observed.model.reason, observed.model.message
    if seen.ready > 0:
        return _several_loaded(models, ladder) if models else ("True", "Loaded", "the server has loaded the model")
    worst = worst_of(finding for finding in trouble if finding.kind in ("Program", "Environment"))
    if worst is None:
        return "Unknown", "NotLoadedYet", "no server has loaded the model yet"
    if worst.transient and worst.restarts < PATIENCE:
        return "Unknown", worst.reason, worst.message
    # What keeps the program from running says nothing of the model, except that the model's own place is missing.
    failed = worst.kind == "Program" or worst.reason == "ClaimNotFound"
    return ("False" if failed else "Unknown"), worst.reason, worst.message


def _several_loaded(models: int, ladder: dict[str, Any] | None) -> Text:
    if ladder is None or not any(step["name"] == "Loaded" for step in ladder["steps"]):
        return "Unknown", "NotLoadedYet", "the server has not said yet which of its models it could load"
    failed = [(one["name"], one["reason"]) for one in ladder.get("failedModels") or ()]
    if not failed:
        return "True", "Loaded", f"the server can serve each of its {models} models"
    reasons = {reason for _, reason in failed}
    told = ", ".join(f"{name} ({reason})" for name, reason in failed[:10])
    more = f" and {len(failed) - 10} more" if len(failed) > 10 else ""
    least = "at least " if len(failed) == cold_start.MOST_FAILED else ""
    message = (
        f"{least}{len(failed)} of {models} models could not be loaded when {ladder['pod']} started: {told}{more}; its "
        "log and its repository index have the server's words"
    )
    return "False", reasons.pop() if len(reasons) == 1 else "SomeNotLoaded", message


def capacity(seen: Rollout, trouble: list[Finding], desired: int, before: dict[str, Any] | None) -> Text:
    short = [finding for finding in [*trouble, *_refusal(seen)] if finding.kind == "Capacity"]
    # With all that are wanted ready, a pod without a place is one too many, on its way out.
    if short and not (desired and seen.ready >= desired):
        worst = min(short, key=lambda finding: (finding.reason, finding.pod))
        return "False", worst.reason, worst.message
    unplaced = any(finding.reason in ("ClaimNotFound", "ClaimNotBound", "Scheduling") for finding in trouble)
    if seen.calm or (seen.exists and seen.updated >= desired and not unplaced):
        return "True", "Scheduled", "all pods have their place"
    if before is not None and before["status"] == "True":
        return "True", before["reason"], before["message"]
    return "Unknown", "NotScheduledYet", "not all pods exist yet"


def _refusal(seen: Rollout) -> list[Finding]:
    return [] if seen.refused is None else [refusal(seen.refused)]


def _replicas(count: int) -> str:
    return "1 replica" if count == 1 else f"{count} replicas"


def _count(seen: Rollout, desired: int) -> str:
    return f"{seen.ready} of {_replicas(desired)} ready"


def _with_rest(message: str, seen: Rollout) -> str:
    serving = seen.before or (seen.ready if seen.calm else 0)
    return f"{message} ({_replicas(serving)} of the version before still take requests)" if serving else message
