"""The election, with a clock that only moves when told and an API server of forty lines."""

from copy import deepcopy
from typing import Any

import pytest

from moorage.kube.errors import Conflict, NotFound, Transient
from moorage.kube.kinds import Kind
from moorage.kube.lease import Election, LeaseLost, Timing

TIMING = Timing(duration=15, renew_deadline=10, retry=2)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Api:
    """One Lease with optimistic locking, as the API server keeps it."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.down = False
        self._version = 0

    async def get(self, kind: Kind, namespace: str, name: str, *, timeout: float | None = None) -> dict[str, Any]:
        self._answer(timeout)
        if self.lease is None:
            raise NotFound("no lease")
        return deepcopy(self.lease)

    async def create(
        self, kind: Kind, namespace: str, manifest: dict[str, Any], *, timeout: float | None = None
    ) -> dict[str, Any]:
        self._answer(timeout)
        if self.lease is not None:
            raise Conflict("exists")
        return self._store(manifest)

    async def replace(
        self, kind: Kind, namespace: str, name: str, manifest: dict[str, Any], *, timeout: float | None = None
    ) -> dict[str, Any]:
        self._answer(timeout)
        assert self.lease is not None
        if manifest["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise Conflict("changed")
        return self._store(manifest)

    def _store(self, manifest: dict[str, Any]) -> dict[str, Any]:
        self._version += 1
        self.lease = deepcopy(manifest)
        self.lease["metadata"]["resourceVersion"] = str(self._version)
        return deepcopy(self.lease)

    def _answer(self, timeout: float | None) -> None:
        assert timeout is not None, "a request without a bound can outlive the deadline"
        if self.down:
            raise Transient("down")

    @property
    def holder(self) -> str:
        assert self.lease is not None
        return str(self.lease["spec"]["holderIdentity"])


class Stop(Exception):
    pass


def election(api: Api, clock: Clock, identity: str, *, naps: int = 10_000) -> Election:
    left = naps

    async def sleep(seconds: float) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Stop
        clock.now += seconds

    return Election(api, "ns", "moorage", identity, TIMING, clock=clock, sleep=sleep)


async def test_the_first_one_leads() -> None:
    api, clock = Api(), Clock()
    await election(api, clock, "a").acquire()
    assert api.holder == "a"
    assert api.lease is not None
    assert api.lease["spec"]["leaseDurationSeconds"] == 15


async def test_the_second_one_waits_until_the_first_has_been_silent_for_the_whole_duration() -> None:
    api, clock = Api(), Clock()
    await election(api, clock, "a").acquire()
    began = clock.now
    await election(api, clock, "b").acquire()
    assert api.holder == "b"
    assert clock.now - began > TIMING.duration
    assert api.lease is not None
    assert api.lease["spec"]["leaseTransitions"] == 1


async def test_a_leader_that_renews_keeps_the_second_one_waiting() -> None:
    api, clock = Api(), Clock()
    first, second = election(api, clock, "a", naps=30), election(api, clock, "b", naps=0)
    await first.acquire()
    with pytest.raises(Stop):
        await second.acquire()
    with pytest.raises(Stop):
        await first.hold()
    with pytest.raises(Stop):
        await second.acquire()
    assert api.holder == "a"


async def test_a_released_lease_is_taken_at_once() -> None:
    api, clock = Api(), Clock()
    first, second = election(api, clock, "a"), election(api, clock, "b", naps=0)
    await first.acquire()
    with pytest.raises(Stop):
        await second.acquire()
    await first.release()
    await second.acquire()
    assert api.holder == "b"


async def test_one_that_stands_by_sees_within_half_a_second_that_the_lease_is_free() -> None:
    api, clock = Api(), Clock()
    first, second = election(api, clock, "a"), election(api, clock, "b", naps=1)
    await first.acquire()
    began = clock.now
    with pytest.raises(Stop):
        await second.acquire()
    await first.release()
    await second.acquire()
    assert clock.now - began <= 0.5


async def test_an_api_server_in_trouble_is_not_asked_so_often() -> None:
    api, clock = Api(), Clock()
    api.down = True
    began = clock.now
    with pytest.raises(Stop):
        await election(api, clock, "b", naps=5).acquire()
    assert clock.now - began == 5 * TIMING.retry


async def test_who_does_not_lead_releases_nothing() -> None:
    api, clock = Api(), Clock()
    first, second = election(api, clock, "a"), election(api, clock, "b", naps=0)
    await first.acquire()
    with pytest.raises(Stop):
        await second.acquire()
    await second.release()
    assert api.holder == "a"


async def test_a_leader_cut_off_from_the_api_server_gives_up_before_another_may_begin() -> None:
    api, clock = Api(), Clock()
    first = election(api, clock, "a")
    await first.acquire()
    renewed = clock.now
    api.down = True
    with pytest.raises(LeaseLost, match="could not renew"):
        await first.hold()
    assert TIMING.renew_deadline < clock.now - renewed < TIMING.duration


async def test_a_short_outage_is_survived() -> None:
    api, clock = Api(), Clock()
    first = election(api, clock, "a", naps=3)
    await first.acquire()
    api.down = True
    with pytest.raises(Stop):
        await first.hold()  # six seconds of it
    api.down = False
    assert api.holder == "a"


async def test_a_thawed_leader_ends_at_its_first_renewal() -> None:
    api, clock = Api(), Clock()
    first = election(api, clock, "a")
    await first.acquire()
    await election(api, clock, "b").acquire()  # while "a" was frozen
    with pytest.raises(LeaseLost, match="b leads now"):
        await first.hold()
    assert api.holder == "b"


async def test_of_two_that_try_at_once_one_wins() -> None:
    api, clock = Api(), Clock()
    await election(api, clock, "gone").acquire()
    clock.now += 100

    first, second = election(api, clock, "a"), election(api, clock, "b", naps=8)
    plain = api.get
    raced = False

    async def get(kind: Kind, namespace: str, name: str, *, timeout: float | None = None) -> dict[str, Any]:
        nonlocal raced
        answer = await plain(kind, namespace, name, timeout=timeout)
        if not raced and clock.now > 115:
            raced = True
            api.get = plain  # type: ignore[method-assign]
            await first.acquire()
        return answer

    api.get = get  # type: ignore[method-assign]
    with pytest.raises(Stop):
        await second.acquire()
    assert api.holder == "a"


def test_times_that_could_overlap_are_refused() -> None:
    with pytest.raises(ValueError, match="renew deadline"):
        Election(Api(), "ns", "moorage", "a", Timing(duration=10, renew_deadline=10, retry=2))
