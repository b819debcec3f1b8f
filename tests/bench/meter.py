"""What a phase of a run took of each program, and what the operator asked of the API server in it."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from bench import usage
from bench.report import console, rounded
from bench.tier import Tier
from cluster.progress import Progress
from support.operator_process import WRITES, OperatorProcess

OPERATOR, BENCH = "operator", "bench"
Requests = Counter[tuple[str, str]]


@dataclass
class Phase:
    name: str
    count: int
    """How many resources it was about."""
    wall: float = 0
    cpu: dict[str, float] = field(default_factory=dict)
    """Seconds by program; `others` is what the machine did besides."""
    requests: Requests = field(default_factory=Counter)
    memory: float = 0
    highest_memory: float = 0

    @property
    def operator_ms(self) -> float:
        return self.cpu.get(OPERATOR, 0) * 1000 / self.count

    @property
    def bench_ms(self) -> float:
        return self.cpu[BENCH] * 1000 / self.count

    def all_cpu(self) -> float:
        """Of the operator and the control plane; neither of this program nor of strangers."""
        return sum(seconds for name, seconds in self.cpu.items() if name not in (BENCH, "others"))

    def per_resource(self, verb: str, resource: str = "") -> float:
        """`resource`: all of that verb, but for status and the Lease, when empty."""
        return (
            sum(
                n
                for (found, what), n in self.requests.items()
                if found == verb and (what == resource if resource else "/" not in what and what != "leases")
            )
            / self.count
        )

    def writes(self) -> int:
        return sum(n for (verb, what), n in self.requests.items() if verb in WRITES and what != "leases")

    def json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "count": self.count,
            "wall_s": rounded(self.wall),
            "cpu_s": {name: rounded(seconds) for name, seconds in self.cpu.items()},
            "operator_ms_per_resource": rounded(self.operator_ms),
            "memory_mib": rounded(self.memory),
            "highest_memory_mib": rounded(self.highest_memory),
            "requests_per_resource": {
                f"{verb} {what}": rounded(n / self.count)
                for (verb, what), n in sorted(self.requests.items())
                if what != "leases"
            },
        }


class Meter:
    def __init__(self, tier: Tier, progress: Progress) -> None:
        self._tier, self._progress = tier, progress
        self.operator: OperatorProcess | None = None
        self.phases: list[Phase] = []

    def tell(self, text: str) -> None:
        """What the phase is at. Nobody need wait for an operator that has ended."""
        if self.operator is not None and not self.operator.running:
            raise AssertionError(f"the operator has ended\n{self.operator.tail(5)}")
        self._progress.detail(text)

    @asynccontextmanager
    async def phase(self, name: str, count: int) -> AsyncIterator[Phase]:
        """An operator that begins within the phase counts from its beginning."""
        phase = Phase(name, count)
        self.phases.append(phase)
        operator = self.operator
        if operator is not None:
            usage.forget_highest_memory(operator.pid)
        requests = await self._requests()
        cpu, busy, start = self._cpu(), usage.machine_busy_seconds(), time.monotonic()
        with self._progress.step(f"{name}, {count}"):
            yield phase
        phase.wall = time.monotonic() - start
        now = self._cpu()
        if operator is not self.operator:
            cpu.pop(OPERATOR, None)
            requests = Counter()
        phase.cpu = {program: seconds - cpu.get(program, 0) for program, seconds in now.items()}
        phase.cpu["others"] = max(0.0, usage.machine_busy_seconds() - busy - sum(phase.cpu.values()))
        phase.requests = await self._requests() - requests
        if self.operator is not None:
            phase.memory = usage.memory_mib(self.operator.pid)
            phase.highest_memory = usage.highest_memory_mib(self.operator.pid)

    def _cpu(self) -> dict[str, float]:
        pids = {**({OPERATOR: self.operator.pid} if self.operator else {}), **self._tier.pids()}
        return {name: usage.cpu_seconds(pid) for name, pid in pids.items()} | {BENCH: time.process_time()}

    async def _requests(self) -> Requests:
        """Nothing is no answer: an operator that serves has at least asked for its Lease."""
        while self.operator is not None:
            if found := await asyncio.to_thread(self.operator.requests):
                return found
        return Counter()


def share(phases: list[Phase]) -> float:
    """Of the operator in all CPU of these phases, in percent."""
    return 100 * sum(phase.cpu.get(OPERATOR, 0) for phase in phases) / sum(phase.all_cpu() for phase in phases)


def show(phases: Sequence[Mapping[str, Any]]) -> None:
    programs = list(phases[0]["cpu_s"])
    table = Table("phase", "wall s", "ms each", "MiB, highest", *(f"{p} CPU s" for p in programs), title="phases")
    for phase in phases:
        used = (f"{phase['cpu_s'].get(program, 0):g}" for program in programs)
        memory = f"{phase['memory_mib']:g}, {phase['highest_memory_mib']:g}"
        table.add_row(phase["name"], f"{phase['wall_s']:g}", f"{phase['operator_ms_per_resource']:g}", memory, *used)
    console.print(table)
    requests = Table("phase", "requests of the operator per resource", title_justify="left")
    for phase in phases:
        each = (f"{what} {n:g}" for what, n in phase["requests_per_resource"].items())
        requests.add_row(phase["name"], ", ".join(each) or "none")
    console.print(requests)
