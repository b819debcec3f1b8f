"""An operator under steady change for a while: samples of it on the way, and whether it wears out.

The course of `make soak` and of its short version in the tests; they differ in length, size and bounds.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from bench.churn import Churn, Sample
from bench.waiting import Tell
from support.operator_process import OperatorProcess

EVERY = 5.0
# An unused connection is closed after 15 seconds, by a look that comes each 15; renewing the lease takes the one that
# has rested longest, and so keeps as many alive as it uses in that time.
IDLE_SECONDS = 60.0


@dataclass
class Course:
    before: Sample
    """With all resources made and ready, at rest: its connections have been used as much as afterwards."""
    samples: list[Sample] = field(default_factory=list)
    after: Sample | None = None
    """With about as many resources, at rest again."""
    wrong_children: list[str] = field(default_factory=list)

    def memory_growth(self, warm: float) -> float:
        """From right after the warm-up to the end, in percent. Medians: one sample in a collector's pause is noise."""
        later = [s for s in self.samples if s.seconds >= warm]
        fifth = max(1, len(later) // 5)
        first, last = (median(s.memory_mib for s in part) for part in (later[:fifth], later[-fifth:]))
        return 100 * (last / first - 1)

    def highest_memory(self) -> float:
        return max(s.memory_mib for s in self.samples)

    def queue_growth(self) -> float:
        """By how many waiting keys the last third is above the first, in the median."""
        third = max(1, len(self.samples) // 3)
        return median(s.queue_depth for s in self.samples[-third:]) - median(
            s.queue_depth for s in self.samples[:third]
        )

    def new_files(self) -> int:
        assert self.after is not None
        return self.after.open_files - self.before.open_files

    def new_tasks(self) -> float | None:
        assert self.after is not None
        if self.after.tasks is None or self.before.tasks is None:
            return None
        return self.after.tasks - self.before.tasks


async def run(
    operator: OperatorProcess, churn: Churn, rate: float, seconds: float, tell: Tell, *, settle_seconds: float
) -> Course:
    """`operator` serves and knows of nothing yet."""
    await churn.fill()
    course = Course(await at_rest(operator, churn, 0, tell, settle_seconds))
    start = time.monotonic()
    changing = asyncio.create_task(churn.run(rate, seconds))
    while not changing.done():
        await asyncio.wait({changing}, timeout=EVERY)
        if not operator.running:
            changing.cancel()
            raise AssertionError(f"the operator has ended\n{operator.tail(5)}")
        sample = await asyncio.to_thread(Sample.of, operator, time.monotonic() - start)
        course.samples.append(sample)
        tell(said(sample, churn.done.total()))
    await changing
    course.after = await at_rest(operator, churn, time.monotonic() - start, tell, settle_seconds)
    course.wrong_children = await churn.wrong_children()
    return course


async def at_rest(operator: OperatorProcess, churn: Churn, seconds: float, tell: Tell, settle_seconds: float) -> Sample:
    await churn.settle(operator, settle_seconds, tell)
    await asyncio.sleep(IDLE_SECONDS)
    return await asyncio.to_thread(Sample.of, operator, seconds)


def said(sample: Sample, done: int) -> str:
    return (
        f"{sample.seconds / 60:.1f} min, {done} changes, {sample.memory_mib:.0f} MiB, {sample.open_files} files, "
        f"queue {sample.queue_depth:.0f}"
    )


def thinned(samples: Sequence[Sample], most: int = 120) -> list[Sample]:
    """Few enough to keep in a file."""
    return list(samples[:: max(1, -(-len(samples) // most))])
