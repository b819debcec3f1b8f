"""How many replicas a load needs. Pure: numbers in, a decision with its reason out.

Desired = total demand / target, rounded up: a total does not change because a new pod is still loading, so there is no
runaway. Up at once; down only to what the highest demand of the stabilisation window needed. Whatever is not known
(no answer, stale or partial data, a window Prometheus has not seen in full) can add replicas but never takes one away.
The window lives in PromQL: a restart of the operator forgets nothing. Left out: rates of change, forecasts, zero.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from moorage.api.facts import Decision

# rate() extrapolates: a steady 8 requests in flight reads 8.0003. A hundredth of a replica is noise, not load.
TOLERANCE = 0.01
# More than any bounds let pass. A quotient of two numbers of the user's may be more than a float or a status can hold.
MOST = 1_000_000
# Share of a window's steps that must hold data. Not all: one lost scrape in five minutes must not stop scale-down.
COVERED = 0.9


@dataclass(frozen=True)
class Bounds:
    minimum: int
    maximum: int


@dataclass(frozen=True)
class Demand:
    """One metric's total over all replicas. `now` None: there is no data. `peak`: the highest of the window.

    `problem` (reason, message) says why there is no data, or why it may not take replicas away; `failed` that it is
    the question that failed, not the data that was missing.
    """

    metric: str
    target: float
    now: float | None
    peak: float | None = None
    window: int = 300
    problem: tuple[str, str] | None = None
    failed: bool = False

    def need(self, total: float) -> int:
        wish = total / self.target - TOLERANCE
        return math.ceil(min(max(wish, 0), MOST))


def measured(
    metric: str,
    target: float,
    *,
    now: float | None,
    peak: float | None,
    window: int,
    samples: float | None,
    step: int,
    reporting: int | None,
    ready: int,
) -> Demand:
    """A Demand from what Prometheus answered, with the doubts said.

    `samples`: how many steps of the window had data, of window/step. `reporting`: pods whose own series are fresh,
    where that can be known (Concurrency); None where it cannot (a query of the user's). `ready`: pods that take
    requests.
    """

    def doubt(reason: str, message: str, value: float | None) -> Demand:
        return Demand(metric, target, value, None, window, (reason, message))

    if now is None or math.isnan(now) or math.isinf(now):
        return doubt("NoData", f"Prometheus has no {metric} data: is it scraping the pods?", None)
    if reporting is not None and reporting < ready:
        return doubt("PartialData", f"Prometheus has fresh {metric} data from {reporting} of {ready} ready pods", now)
    if window == 0:
        return Demand(metric, target, now, now, window)
    if peak is None or math.isnan(peak) or samples is None or samples < COVERED * (window // step):
        # Not a fault: a deployment younger than its window. It says so in the reason, not in the condition.
        return Demand(metric, target, now, None, window)
    return Demand(metric, target, now, max(now, peak), window)


def decide(bounds: Bounds, current: int, demands: Sequence[Demand]) -> Decision:
    """The largest demand wins; bounds hold whatever the demands say."""
    wishes = [_wish(current, demand, named=len(demands) > 1) for demand in demands]
    known = [wish for wish in wishes if wish is not None]
    problems = [demand.problem for demand in demands if demand.problem]
    if not known:
        reason, message = problems[0] if problems else ("NoData", "no metric gave an answer")
        return hold(bounds, current, reason, message)

    replicas, why = max(known, key=lambda wish: wish[0])
    if len(known) < len(wishes) and replicas < current:
        replicas, why = current, f"{why}, held at {current}: another metric has no data"
    replicas, why = _clamp(bounds, replicas, why)
    return Decision(replicas, why, _active(problems, failing=len(known) < len(wishes)))


def hold(bounds: Bounds, current: int | None, reason: str, message: str, *, status: str = "False") -> Decision:
    """Nothing is known about the load: stay, within the bounds. `current` None: there is no Deployment yet."""
    if current is None:
        return Decision(bounds.minimum, f"start at minReplicas {bounds.minimum}", (status, reason, message))
    replicas, why = _clamp(bounds, current, f"held at {current}: {message}")
    return Decision(replicas, why, (status, reason, message))


def _wish(current: int, demand: Demand, *, named: bool) -> tuple[int, str] | None:
    if demand.now is None:
        return None
    need = demand.need(demand.now)
    prefix = f"{demand.metric}: " if named else ""
    why = f"{prefix}demand {_number(demand.now)} / target {_number(demand.target)} → {need}"
    if need >= current:
        return need, why
    if demand.peak is None:
        doubt = demand.problem[1] if demand.problem else f"the last {demand.window} s are not all known yet"
        return current, f"{why}, held at {current}: {doubt}"
    floor = min(current, demand.need(demand.peak))
    if floor > need:
        return floor, f"{why}, held at {floor}: demand was {_number(demand.peak)} in the last {demand.window} s"
    return need, why


def _clamp(bounds: Bounds, replicas: int, why: str) -> tuple[int, str]:
    if replicas > bounds.maximum:
        return bounds.maximum, f"{why}, limited by maxReplicas {bounds.maximum}"
    if replicas < bounds.minimum:
        return bounds.minimum, f"{why}, raised to minReplicas {bounds.minimum}"
    return replicas, why


def _active(problems: Sequence[tuple[str, str]], *, failing: bool) -> tuple[str, str, str]:
    if not problems:
        return "True", "Following", "replicas follow the load"
    reason, message = problems[0]
    return ("False" if failing else "True"), reason, f"{message}; replicas are added where needed but not taken away"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
