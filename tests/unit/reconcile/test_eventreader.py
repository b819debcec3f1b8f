"""Events are read of few objects, more and more seldom, and trouble in reading them stops nothing."""

from typing import Any

from moorage.kube.errors import ApiError, Forbidden
from moorage.kube.kinds import EVENT, Kind
from moorage.reconcile.eventreader import FIRST_LOOK, OBJECTS, EventReader
from moorage.status.kubelet import Heard


class Listing:
    def __init__(self, items: list[dict[str, Any]]) -> None:
        self.items = items


class Api:
    def __init__(self) -> None:
        self.asked: list[str] = []
        self.events: list[dict[str, Any]] = []
        self.error: ApiError | None = None

    async def list(self, kind: Kind, namespace: str, *, fields: str) -> Listing:
        assert (kind, namespace) == (EVENT, "ns")
        self.asked.append(fields)
        if self.error is not None:
            raise self.error
        return Listing(self.events)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def pod(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "ns", "uid": f"uid-{name}"}}


def event(note: str, **times: Any) -> dict[str, Any]:
    return {"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}, "reason": "Unhealthy", "note": note, **times}


async def test_the_newest_is_last() -> None:
    api = Api()
    api.events = [
        event("second", deprecatedLastTimestamp="2026-01-01T00:02:00Z"),
        event("third", series={"lastObservedTime": "2026-01-01T00:03:00Z"}),
        event("first"),
    ]
    heard, _ = await EventReader(api).about([pod("a")])  # type: ignore[arg-type]
    assert heard == {"uid-a": [Heard("Unhealthy", words) for words in ("first", "second", "third")]}
    assert api.asked == ["regarding.uid=uid-a"]


async def test_more_and_more_seldom() -> None:
    api, clock = Api(), Clock()
    reader = EventReader(api, clock=clock)  # type: ignore[arg-type]
    for second in range(600):
        clock.now = float(second)
        await reader.about([pod("a")])
    # At 0, 4, 12, 28, 60, 124, 244, 364, 484.
    assert len(api.asked) == 9
    assert FIRST_LOOK == 4


async def test_of_few_objects() -> None:
    api = Api()
    heard, _ = await EventReader(api).about([pod(name) for name in "edcba"])  # type: ignore[arg-type]
    assert len(api.asked) == len(heard) == OBJECTS


async def test_without_the_right_to_read_them_there_are_fewer_words() -> None:
    api, clock = Api(), Clock()
    reader = EventReader(api, clock=clock)  # type: ignore[arg-type]
    api.events = [event("known")]
    await reader.about([pod("a")])
    api.error, clock.now = Forbidden("no"), 10
    heard, again = await reader.about([pod("a")])
    assert (heard, again) == ({"uid-a": [Heard("Unhealthy", "known")]}, 2 * FIRST_LOOK)
