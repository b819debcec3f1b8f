"""`make bench-operator`: many ModelDeployments made, changed, at rest, over a restart, deleted; then against the limit.

Everything real but the kubelets: etcd, API server, controller-manager and scheduler of the API tier, nodes by KWOK, the
operator as a process with the rights that the chart gives it. CPU seconds and writes do not depend on who else uses
the cores; wall seconds do.

With BENCH_PODS=0 the controllers are frozen: there are children and no pods, and nothing is changed or deleted. So
10,000 take minutes, where the controllers of Kubernetes would take hours on two cores.
"""

import asyncio
import os
import sys
import time

from bench import meter as meters
from bench import page, report
from bench.client import Api
from bench.fleet import Fleet, namespaces_for
from bench.limit import compare
from bench.meter import Meter, Phase
from bench.report import Row, at_most, told
from bench.tier import Tier, api_tier
from bench.view import View, view_of
from bench.waiting import until_done
from cluster.progress import Progress

USUAL = 1000
LIMIT_COUNT = 300
REST_SECONDS = 20
STATUS = "modeldeployments/status"
AT_REST = f"writes in {REST_SECONDS} s at rest"


def main(count: int, *, pods: bool) -> None:
    progress = Progress()
    with api_tier(progress) as tier:
        meter = Meter(tier, progress)
        try:
            rows = asyncio.run((measure if pods else measure_without_pods)(tier, meter, count))
        finally:
            if meter.operator is not None:
                meter.operator.kill()
        versions = {"kubernetes": tier.version()}
    phases = [phase.json() for phase in meter.phases]
    meters.show(phases)
    name = "operator" if count == USUAL else f"operator-{count}"
    report.finish(name if pods else f"{name}-without-pods", rows, versions, count=count, phases=phases)
    page.write()


async def measure(tier: Tier, meter: Meter, count: int) -> list[Row]:
    async with Api(tier.kubeconfig) as api, view_of(api) as view:
        fleet = Fleet(api, tier.namespaces("models", namespaces_for(count)), count)
        before = await fleet.children()
        meter.operator = await asyncio.to_thread(lambda: tier.operator().start().until("serves"))
        await asyncio.sleep(2)
        patience = 120 + count * 1.0

        async with meter.phase("create", count) as created:
            await asyncio.gather(fleet.create(), view.until_ready(count, 1, patience, meter.tell))
        async with meter.phase("at rest", count) as rest:
            await asyncio.sleep(REST_SECONDS)
        async with meter.phase("change", count) as changed:
            await asyncio.gather(fleet.change_templates(), view.until_ready(count, 2, patience, meter.tell))
        await settle(meter)
        restarted, served = await restart(tier, meter, count)
        async with meter.phase("delete", count) as deleted:
            await fleet.delete()
            await until_all_gone(fleet, before, view, patience, meter)

        await asyncio.to_thread(meter.operator.stop)
        meter.operator = None
        main_phases = [created, changed, restarted, deleted]
        rows = judged(count, created, rest, changed, restarted, served, deleted, meters.share(main_phases))
        return rows + await compare(tier, meter, api, view, min(count, LIMIT_COUNT))


async def measure_without_pods(tier: Tier, meter: Meter, count: int) -> list[Row]:
    async with Api(tier.kubeconfig) as api, view_of(api) as view:
        fleet = Fleet(api, tier.namespaces("models", namespaces_for(count)), count)
        meter.operator = await asyncio.to_thread(lambda: tier.operator().start().until("serves"))
        await asyncio.sleep(2)
        with tier.frozen():
            async with meter.phase("create", count) as created:
                await asyncio.gather(fleet.create(), view.until_observed(count, 120 + count, meter.tell))
            await settle(meter)
            async with meter.phase("at rest", count) as rest:
                await asyncio.sleep(REST_SECONDS)
            restarted, served = await restart(tier, meter, count)
        return [
            *of_writes(created, status_writes=1),
            told("operator CPU per new resource until its first status", created.operator_ms, "ms"),
            told("wall of the creation", created.wall, "s"),
            at_most(AT_REST, 0, rest.writes(), ""),
            *of_restart(count, restarted, served),
            *of_memory(count, rest, created, restarted),
        ]


async def settle(meter: Meter) -> None:
    """Until the operator has nothing left to do."""
    operator = meter.operator
    assert operator is not None

    async def waiting() -> str:
        keys = await asyncio.to_thread(operator.metric, "moorage_operator_queue_depth")
        return f"{keys:g} keys wait" if keys else ""

    await until_done(waiting, 120, meter.tell)
    await asyncio.sleep(5)


async def restart(tier: Tier, meter: Meter, count: int) -> tuple[Phase, float]:
    """From the start of the process until every resource has been looked at; also the time until it served."""
    assert meter.operator is not None
    await asyncio.to_thread(meter.operator.stop)
    meter.operator = None
    async with meter.phase("restart", count) as phase:
        begin = time.monotonic()
        operator = meter.operator = tier.operator().start()

        async def serving() -> str:
            return "" if operator.serves else "it does not serve yet"

        async def looking() -> str:
            metric = "moorage_operator_reconcile_duration_seconds_count"
            looked = await asyncio.to_thread(operator.metric, metric, kind="ModelDeployment")
            return "" if looked >= count else f"{looked:g} of {count} looked at"

        await until_done(serving, 120, meter.tell, every=0.02)
        served = time.monotonic() - begin
        await until_done(looking, 120, meter.tell, every=0.05)
    # Writes that come late are writes all the same.
    await asyncio.sleep(5)
    phase.requests = await asyncio.to_thread(operator.requests)
    return phase, served


async def until_all_gone(fleet: Fleet, before: dict[str, int], view: View, patience: float, meter: Meter) -> None:
    async def left() -> str:
        counts = await fleet.children()
        return ", ".join(f"{n - before[kind]} {kind}" for kind, n in counts.items() if n != before[kind])

    await view.until_gone(patience, meter.tell)
    await until_done(left, patience, meter.tell)


def judged(
    count: int,
    created: Phase,
    rest: Phase,
    changed: Phase,
    restarted: Phase,
    served: float,
    deleted: Phase,
    share: float,
) -> list[Row]:
    return [
        *of_writes(created, status_writes=2),
        at_most("operator CPU per new resource until Ready", 12, created.operator_ms, "ms"),
        told("wall of the creation", created.wall, "s"),
        at_most(AT_REST, 0, rest.writes(), ""),
        at_most("applies per changed template", 1, changed.per_resource("apply"), ""),
        at_most("status writes per changed template", 3, changed.per_resource("patch", STATUS), ""),
        told("operator CPU per changed template", changed.operator_ms, "ms"),
        told("wall of the change", changed.wall, "s"),
        *of_restart(count, restarted, served),
        told("wall of the deletion until pods and children were gone", deleted.wall, "s"),
        *of_memory(count, rest, created, changed, restarted, deleted),
        at_most("operator's share of all CPU, creation to deletion", 15, share, "%"),
    ]


def of_writes(created: Phase, *, status_writes: int) -> list[Row]:
    return [
        at_most("applies per new resource with 3 children", 3, created.per_resource("apply"), ""),
        at_most("status writes per new resource", status_writes, created.per_resource("patch", STATUS), ""),
    ]


def of_restart(count: int, restarted: Phase, served: float) -> list[Row]:
    wall = f"restart over {count} with children, until every one was looked at"
    return [
        at_most("writes of a restart", 0, restarted.writes(), ""),
        at_most(wall, 2.5, restarted.wall, "s") if count <= USUAL else told(wall, restarted.wall, "s"),
        told("until it served, in that", served, "s"),
    ]


def of_memory(count: int, rest: Phase, *others: Phase) -> list[Row]:
    most = 110 if count <= USUAL else 350
    highest = max(phase.highest_memory for phase in (rest, *others))
    return [
        at_most(f"memory at rest with {count} resources and their children", most, rest.memory, "MiB"),
        at_most("memory, highest of all phases", most, highest, "MiB"),
    ]


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else USUAL, pods=os.environ.get("BENCH_PODS") != "0")
