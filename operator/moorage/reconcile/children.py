"""The children of one resource made to be what they should be: plan, then execute.

Knows nothing of models or training. What an apply returned goes into the store at once, so that its echo on the watch
is no news.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import structlog

from moorage import telemetry
from moorage.api.facts import Problem
from moorage.api.names import DIGEST
from moorage.desired.digest import covers
from moorage.kube.client import Client
from moorage.kube.errors import NotFound
from moorage.kube.kinds import POD_MONITOR, Key, key_of, kind_of
from moorage.reconcile.plan import Action, Object, Step, Verdict, plan_child
from moorage.reconcile.store import Store, version

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Done:
    problem: Problem | None = None
    waiting: bool = False
    """Something is on its way out; come again."""
    taken: bool = False
    """A name belongs to somebody else, whose going no watch of ours tells; come again some time."""


class Children:
    def __init__(self, client: Client, store: Store) -> None:
        self._client, self._store = client, store
        self._guard: dict[Key, tuple[str, str, int]] = {}

    async def converge(
        self, owner: Object, desired: Iterable[Object], verdicts: Mapping[str, Verdict] = MappingProxyType({})
    ) -> Done:
        """`desired` is stamped. `verdicts` are by kind, for what Kubernetes does not let us change in place."""
        steps = [
            plan_child(owner, manifest, await self._live(manifest), self._satisfied, verdicts.get(manifest["kind"]))
            for manifest in desired
        ]
        # One name that is taken and nothing is written: half a resource helps nobody.
        refused = [step.reason for step in steps if step.action is Action.REFUSE]
        if refused:
            message = f"{'; '.join(refused)}: rename this resource, or remove the other one"
            return Done(Problem("NameConflict", message), taken=True)
        for step in steps:
            await self._execute(step)
        return Done(waiting=any(step.action in (Action.WAIT, Action.DELETE) for step in steps))

    async def prune(self, owner: Object, desired: Iterable[Object], *, keep: Iterable[str] = ()) -> None:
        """Delete our children that are no longer wanted, but for the kinds in `keep`."""
        wanted = {key_of(manifest) for manifest in desired}
        for live in self._store.controlled_by(owner["metadata"]["uid"]):
            key = key_of(live)
            if key not in wanted and key.kind not in keep and "deletionTimestamp" not in live["metadata"]:
                await self._delete(live, "it is no longer wanted")

    async def _live(self, manifest: Object) -> Object | None:
        """As we know it; what we do not know may still be there, without our label."""
        key = key_of(manifest)
        known = self._store.get(key)
        if known is not None:
            return known
        try:
            return await self._client.get(kind_of(manifest), key.namespace, key.name)
        except NotFound:
            return None

    async def _execute(self, step: Step) -> None:
        if step.action is Action.DELETE:
            assert step.live is not None
            await self._delete(step.live, step.reason)
        if step.action is not Action.APPLY:
            return
        answer = await self._client.apply(step.manifest)
        self._remember(answer)
        log.info("applied", child=f"{step.key.kind}/{step.key.name}", reason=step.reason)
        if covers(answer, step.manifest):
            self._guard.pop(step.key, None)
            return
        # An apply with force that succeeded is satisfied by definition, however the API server writes it down. Without
        # this guard a difference of notation would be applied again and again.
        if step.key not in self._guard:
            log.warning("stored otherwise than sent", child=f"{step.key.kind}/{step.key.name}")
        self._guard[step.key] = (answer["metadata"]["uid"], _digest(step.manifest), _edition(answer))

    async def _delete(self, live: Object, reason: str) -> None:
        key = key_of(live)
        await self._client.delete(kind_of(live), key.namespace, key.name, uid=live["metadata"]["uid"])
        if kind_of(live) is POD_MONITOR:
            self._store.remove(live)  # not watched, so nobody else will say so
        log.info("deleted", child=f"{key.kind}/{key.name}", reason=reason)

    def _remember(self, answer: Object) -> None:
        if self._store.put(answer) and kind_of(answer) is not POD_MONITOR:
            self._store.owe(answer)

    def _satisfied(self, live: Object, desired: Object) -> bool:
        held = self._guard.get(key_of(live)) == (live["metadata"]["uid"], _digest(desired), _edition(live))
        if held:
            telemetry.GUARD_SKIPS.labels(live["kind"]).inc()
        return held


def _digest(obj: Object) -> str:
    return str((obj["metadata"].get("annotations") or {}).get(DIGEST, ""))


def _edition(obj: Object) -> int:
    """What moves when the wish in an object changes. Service and ConfigMap have no generation."""
    return int(obj["metadata"].get("generation") or version(obj))
