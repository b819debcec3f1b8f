"""The children of one resource made to be what they should be: plan, then execute.

Knows nothing of models or training. What an apply returned goes into the store at once, so that its echo on the watch
is no news.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import structlog

from moorage import telemetry
from moorage.api.facts import InvalidSpec, Problem
from moorage.api.names import DIGEST
from moorage.kube.client import Client
from moorage.kube.errors import ApiError, Conflict, Forbidden, Invalid, NotFound
from moorage.kube.kinds import (
    DEPLOYMENT,
    JOB,
    POD_DISRUPTION_BUDGET,
    WATCHED,
    Key,
    key_of,
    kind_of,
)
from moorage.reconcile.outcome import problem_of
from moorage.reconcile.plan import Action, Object, Step, Verdict, plan_child
from moorage.reconcile.store import Store, version

log = structlog.get_logger()

# Their selector is one value that names its owner: applied without force over somebody else's object it is a conflict.
# So nobody has to ask first whether there is one, which would be a request for each new child. A Service may have no
# selector: there it would be none.
_OWN_SELECTOR = {kind.kind for kind in (DEPLOYMENT, POD_DISRUPTION_BUDGET)}

Hindrance = Callable[[], Awaitable[Problem | None]]
"""What speaks against making a child that does not exist, asked right before."""


@dataclass(frozen=True, slots=True)
class Done:
    problem: Problem | None = None
    waiting: bool = False
    """Something is on its way out; come again."""
    taken: bool = False
    """A name belongs to somebody else, whose going no watch of ours tells; come again some time."""
    failed: ApiError | None = None
    """Told by `problem`, and worth another try."""


async def attempt(making: Awaitable[Done]) -> Done:
    """What came of it, where an error that the resource's owner has to know of is a problem and not raised."""
    try:
        return await making
    except InvalidSpec as error:
        return Done(problem_of(error))
    except (Invalid, Forbidden, NotFound) as error:
        return Done(problem_of(error), failed=error)


@dataclass(slots=True)
class _Known:
    """Of the children of one owner: which digest of ours the API server stores as which wish. An apply with force that
    succeeded is satisfied by definition, however the API server writes it down: without this a difference of notation
    would be applied again and again."""

    children: dict[Key, tuple[str, int | None]] = field(default_factory=dict)
    mark: object = None


class Children:
    def __init__(self, client: Client, store: Store) -> None:
        self._client, self._store = client, store
        self._known: dict[Key, _Known] = {}

    def leave(self, owner: Key) -> None:
        """It is gone, and its children go with it."""
        self._known.pop(owner, None)

    def in_order(self, owner: Object, mark: object) -> bool:
        """Whether everything was made as `mark` asked, and nobody has touched it since: then there is nothing to build
        and compare."""
        known = self._known.get(key_of(owner))
        if known is None or known.mark != mark:
            return False
        keys = self._store.keys_by("controller", owner["metadata"]["uid"])
        return len(keys) == len(known.children) and all(
            key in known.children and known.children[key][1] == self._store.wish(key) for key in keys
        )

    def settle(self, owner: Object, mark: object) -> None:
        """What was just made is what `mark` asked for."""
        self._of(key_of(owner)).mark = mark

    async def converge(
        self,
        owner: Object,
        desired: Iterable[Object],
        verdicts: Mapping[str, Verdict] = MappingProxyType({}),
        hindrances: Mapping[str, Hindrance] = MappingProxyType({}),
    ) -> Done:
        """`desired` is stamped. By kind: `verdicts` for what Kubernetes does not let us change in place, `hindrances`
        for what must not be made at any time."""
        known = self._of(key_of(owner))
        known.mark = None

        def satisfied(live: Object, wanted: Object) -> bool:
            return known.children.get(key_of(live)) == (_digest(wanted), self._store.wish(key_of(live)))

        steps = [
            plan_child(owner, manifest, await self._live(manifest), satisfied, verdicts.get(manifest["kind"]))
            for manifest in desired
        ]
        # One name that is known to be taken and nothing is written: half a resource helps nobody.
        if any(step.action is Action.REFUSE for step in steps):
            return _taken(steps)
        vanished = any(s.action is Action.APPLY and s.live is None and s.key in known.children for s in steps)
        if vanished and not await self._stays(owner):
            return Done(waiting=True)
        problem: Problem | None = None
        for number, step in enumerate(steps):
            hindrance = hindrances.get(step.key.kind)
            if hindrance is not None and step.action is Action.APPLY and step.live is None:
                problem = await hindrance()
                if problem is not None:
                    steps[number] = replace(step, action=Action.WAIT, reason=problem.message)
                    continue
            try:
                await self._execute(known, step)
            except Conflict:
                if step.live is not None or step.key.kind not in _OWN_SELECTOR:
                    raise
                live = await self._client.get(kind_of(step.manifest), step.key.namespace, step.key.name)
                steps[number] = plan_child(owner, step.manifest, live, satisfied)
                if steps[number].action is Action.REFUSE:
                    return _taken(steps)
                await self._execute(known, steps[number])
        return Done(problem, waiting=any(step.action in (Action.WAIT, Action.DELETE) for step in steps))

    async def prune(self, owner: Object, desired: Iterable[Object], *, keep: Iterable[str] = ()) -> None:
        """Delete our children that are no longer wanted, but for the kinds in `keep`."""
        wanted = {key_of(manifest) for manifest in desired}
        for key in self._store.keys_by("controller", owner["metadata"]["uid"]):
            if key in wanted or key.kind in keep:
                continue
            live = self._store.get(key)
            if live is not None and "deletionTimestamp" not in live["metadata"]:
                await self._delete(live, "it is no longer wanted")
                self._of(key_of(owner)).children.pop(key, None)

    async def _stays(self, owner: Object) -> bool:
        """Asked where a child of ours has gone: its owner may be going too, and that news come after this."""
        key = key_of(owner)
        try:
            now = await self._client.get(kind_of(owner), key.namespace, key.name)
        except NotFound:
            return False
        return bool(now["metadata"]["uid"] == owner["metadata"]["uid"]) and "deletionTimestamp" not in now["metadata"]

    async def _live(self, manifest: Object) -> Object | None:
        """As we know it; what we do not know may still be there, without our label."""
        key = key_of(manifest)
        known = self._store.get(key)
        if known is not None or manifest["kind"] in _OWN_SELECTOR:
            return known
        try:
            return await self._client.get(kind_of(manifest), key.namespace, key.name)
        except NotFound:
            return None

    async def _execute(self, known: _Known, step: Step) -> None:
        if step.action is Action.KEEP:
            known.children[step.key] = _digest(step.manifest), self._store.wish(step.key)
        if step.action is Action.DELETE:
            assert step.live is not None
            known.children.pop(step.key, None)
            await self._delete(step.live, step.reason)
        if step.action is not Action.APPLY:
            return
        answer = await self._client.apply(step.manifest, force=step.live is not None)
        self._store.learn(answer)
        known.children[step.key] = _digest(step.manifest), self._store.wish(step.key)
        log.info("applied", child=f"{step.key.kind}/{step.key.name}", reason=step.reason)
        if step.live is not None and version(answer) == version(step.live):
            log.warning("stored otherwise than sent", child=f"{step.key.kind}/{step.key.name}")
            telemetry.NEEDLESS_APPLIES.labels(step.key.kind).inc()

    async def _delete(self, live: Object, reason: str) -> None:
        key = key_of(live)
        # The next run takes the names of this one: a Job goes after its pods.
        await self._client.delete(
            kind_of(live), key.namespace, key.name, uid=live["metadata"]["uid"], after_dependents=kind_of(live) is JOB
        )
        if key.kind not in WATCHED:
            self._store.remove(live)  # nobody else will say so
        log.info("deleted", child=f"{key.kind}/{key.name}", reason=reason)

    def _of(self, owner: Key) -> _Known:
        return self._known.setdefault(owner, _Known())


def _taken(steps: Iterable[Step]) -> Done:
    reasons = "; ".join(step.reason for step in steps if step.action is Action.REFUSE)
    return Done(Problem("NameConflict", f"{reasons}: rename this resource, or remove the other one"), taken=True)


def _digest(obj: Object) -> str:
    return str((obj["metadata"].get("annotations") or {}).get(DIGEST, ""))
