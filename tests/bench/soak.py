"""`make soak`: an hour of steady change, after which the operator must be what it was at the beginning.

5 changes a second over 500 resources whose pods KWOK plays. SOAK_MINUTES makes it longer or shorter.
"""

import asyncio
import os
from dataclasses import asdict

from bench import endurance, page, report
from bench.churn import Churn
from bench.client import Api
from bench.endurance import Course
from bench.fleet import namespaces_for
from bench.report import Row, at_most, told
from bench.tier import Tier, api_tier
from cluster.progress import Progress
from support.operator_process import OperatorProcess

SIZE, RATE = 500, 5.0
WARM_MINUTES = 10.0
SETTLE_SECONDS = 900.0
"""Enough for the controllers of Kubernetes, which on two cores come behind what was changed."""
USUAL_MINUTES = 60.0


def main(minutes: float) -> None:
    progress = Progress()
    with api_tier(progress) as tier:
        operator = tier.operator().start().until("serves")
        try:
            with progress.step(f"{minutes:g} minutes of change"):
                course, changes = asyncio.run(measure(tier, operator, minutes, progress))
        finally:
            operator.kill()
        versions = {"kubernetes": tier.version()}
    warm = min(WARM_MINUTES, minutes / 4)
    samples = [asdict(sample) for sample in endurance.thinned(course.samples)]
    name = "soak" if minutes >= USUAL_MINUTES else "soak-short"
    report.finish(name, judged(course, warm, changes), versions, minutes=minutes, samples=samples)
    page.write()


async def measure(tier: Tier, operator: OperatorProcess, minutes: float, progress: Progress) -> tuple[Course, int]:
    async with Api(tier.kubeconfig) as api:
        churn = Churn(api, tier.namespaces("soak", namespaces_for(SIZE)), SIZE)
        course = await endurance.run(
            operator, churn, RATE, minutes * 60, progress.detail, settle_seconds=SETTLE_SECONDS
        )
        return course, churn.done.total()


def judged(course: Course, warm_minutes: float, changes: int) -> list[Row]:
    assert course.after is not None
    minutes = course.samples[-1].seconds / 60
    return [
        told("length", minutes, "min"),
        told("changes made", changes, ""),
        at_most(f"memory growth after minute {warm_minutes:g}", 5, course.memory_growth(warm_minutes * 60), "%"),
        told("memory before, at rest", course.before.memory_mib, "MiB"),
        told("memory, highest", course.highest_memory(), "MiB"),
        told("memory afterwards, at rest", course.after.memory_mib, "MiB"),
        at_most("keys waiting in the last third above the first", 5, course.queue_growth(), ""),
        told("keys waiting, most", max(s.queue_depth for s in course.samples), ""),
        at_most("keys waiting at rest", 0, course.after.queue_depth + course.after.queue_delayed, ""),
        at_most("connections and files more than before", 2, course.new_files(), ""),
        at_most("asyncio tasks more than before", 2, course.new_tasks(), ""),
        at_most("children without owner, missing or too many", 0, len(course.wrong_children), ""),
    ]


if __name__ == "__main__":
    main(float(os.environ.get("SOAK_MINUTES") or USUAL_MINUTES))
