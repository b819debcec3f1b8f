"""Leader election by a Lease, with a clean hand-over.

The holder's age is judged by our own monotonic clock since the record was last seen to change, so the clocks of two
machines need not agree. A leader that cannot renew in time must end its process: it must not merely stop working,
since nobody can say what is still in flight. The library's election has no release and would cost a whole lease
duration on every rollout.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import structlog

from moorage.kube.errors import ApiError, Conflict, NotFound
from moorage.kube.kinds import LEASE, Kind

log = structlog.get_logger()


LOOK = 0.25
"""Seconds between two looks of one that stands by: a lease that is given up is taken at once. A look is one small read
(0.9 ms of the API server's CPU); renewals keep their own pace."""


class LeaseLost(Exception):
    """Another process may lead now; this one has to end."""


class LeaseApi(Protocol):
    """The part of the client that an election needs."""

    async def get(self, kind: Kind, namespace: str, name: str, *, timeout: float | None = None) -> dict[str, Any]: ...

    async def create(
        self, kind: Kind, namespace: str, manifest: dict[str, Any], *, timeout: float | None = None
    ) -> dict[str, Any]: ...

    async def replace(
        self, kind: Kind, namespace: str, name: str, manifest: dict[str, Any], *, timeout: float | None = None
    ) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Timing:
    duration: float = 15
    renew_deadline: float = 10
    retry: float = 2


class Election:
    def __init__(
        self,
        client: LeaseApi,
        namespace: str,
        name: str,
        identity: str,
        timing: Timing,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        if not timing.retry < timing.renew_deadline < timing.duration:
            raise ValueError("the lease's retry must be shorter than its renew deadline, and that than its duration")
        self._client = client
        self._namespace, self._name = namespace, name
        self._identity = identity
        self._timing = timing
        self._clock, self._sleep = clock, sleep
        self._lease: dict[str, Any] | None = None
        self._seen: tuple[Any, ...] = ()
        self._seen_at = 0.0
        self._renewed_at = 0.0
        self._answered = True

    async def acquire(self) -> None:
        """Wait until we lead."""
        waiting_for = ""
        while not await self._try():
            if self._holder() != waiting_for:
                waiting_for = self._holder()
                log.info("standing by", leader=waiting_for, lease=f"{self._namespace}/{self._name}")
            # An API server in trouble is not asked that often.
            await self._sleep(min(LOOK, self._timing.retry) if self._answered else self._timing.retry)
        log.info("leading", identity=self._identity, lease=f"{self._namespace}/{self._name}")

    async def hold(self) -> None:
        """Renew until it fails for too long, or somebody else holds the lease; then raise LeaseLost."""
        while True:
            await self._sleep(self._timing.retry)
            if await self._try():
                continue
            if self._holder() not in ("", self._identity):
                raise LeaseLost(f"{self._holder()} leads now")
            if self._clock() - self._renewed_at > self._timing.renew_deadline:
                raise LeaseLost(f"could not renew the lease for {self._timing.renew_deadline:.0f} s")

    @property
    def fresh(self) -> bool:
        """Whether the lease is ours beyond doubt: nobody else can have begun to lead."""
        return self._clock() - self._renewed_at < self._timing.renew_deadline

    async def release(self) -> None:
        """Give the lease up, so that the next one starts at once. Never fails: the lease then simply runs out."""
        if self._lease is None or self._holder() != self._identity:
            return
        with contextlib.suppress(ApiError):
            await self._write(holder="", duration=1)
            log.info("lease released", identity=self._identity)

    async def _try(self) -> bool:
        self._answered = True
        try:
            await self._read()
            if not self._may_take():
                return False
            started = self._clock()
            await self._write(holder=self._identity, duration=self._timing.duration)
        except Conflict:
            return False
        except ApiError as error:
            log.warning("lease not renewed or taken", error=error.message)
            self._answered = False
            return False
        # Counted from before the request: the others may have begun to wait as early as that.
        self._renewed_at = started
        return True

    async def _read(self) -> None:
        try:
            self._lease = await self._client.get(LEASE, self._namespace, self._name, timeout=self._timing.retry)
        except NotFound:
            self._lease = None
            return
        spec = self._lease.get("spec") or {}
        record = (spec.get("holderIdentity"), spec.get("renewTime"), spec.get("leaseTransitions"))
        if record != self._seen:
            self._seen, self._seen_at = record, self._clock()

    def _may_take(self) -> bool:
        if self._lease is None or self._holder() in ("", self._identity):
            return True
        duration = (self._lease.get("spec") or {}).get("leaseDurationSeconds") or self._timing.duration
        return self._clock() - self._seen_at > duration

    def _holder(self) -> str:
        return str(((self._lease or {}).get("spec") or {}).get("holderIdentity") or "")

    async def _write(self, *, holder: str, duration: float) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        old = (self._lease or {}).get("spec") or {}
        changed = holder != "" and holder != old.get("holderIdentity")
        spec = {
            "holderIdentity": holder,
            "leaseDurationSeconds": max(1, round(duration)),
            "renewTime": now,
            "acquireTime": now if changed else old.get("acquireTime", now),
            "leaseTransitions": old.get("leaseTransitions", 0) + (1 if changed and self._lease else 0),
        }
        meta: dict[str, Any] = {"name": self._name, "namespace": self._namespace}
        body = {"apiVersion": LEASE.api_version, "kind": LEASE.kind, "metadata": meta, "spec": spec}
        timeout = self._timing.retry
        if self._lease is None:
            self._lease = await self._client.create(LEASE, self._namespace, body, timeout=timeout)
        else:
            meta["resourceVersion"] = self._lease["metadata"]["resourceVersion"]
            meta["labels"] = self._lease["metadata"].get("labels", {})
            self._lease = await self._client.replace(LEASE, self._namespace, self._name, body, timeout=timeout)
