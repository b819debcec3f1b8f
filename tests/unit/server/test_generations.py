"""Texts and the process that makes them, which is a socket here: how much is made ahead, who waits, how each ends."""

import asyncio
import socket
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from moorage_server import pipe
from moorage_server.engine import ModelFailed, QueueFull, Stopped
from moorage_server.generations import WINDOW, Generation, Generations
from moorage_server.handler import Handler


class Maker:
    """The other side: says what it is told to, and hears."""

    def __init__(self) -> None:
        ours, self._peer = socket.socketpair()
        self._peer.settimeout(5)
        self.handler = cast(Handler, SimpleNamespace(streams=ours, generates=True, predicts=False))

    async def hear(self) -> Any:
        return await asyncio.to_thread(pipe.receive, self._peer)

    async def say(self, number: int, **what: Any) -> None:
        pipe.send(self._peer, {"id": number, **what})
        await asyncio.sleep(0.02)

    async def silent(self) -> bool:
        await asyncio.sleep(0.02)
        self._peer.setblocking(False)
        try:
            return not self._peer.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        finally:
            self._peer.settimeout(5)

    def close(self) -> None:
        self._peer.close()


class Client:
    """Whose text it is."""

    def __init__(self, *, room: bool = True) -> None:
        self.room, self.pieces, self.ends = room, list[str](), list[Exception | None]()

    def piece(self, text: str) -> bool:
        self.pieces.append(text)
        if text == "too much":
            raise ValueError(text)
        return self.room

    def end(self, failed: Exception | None) -> None:
        self.ends.append(failed)

    def ask(self, generations: Generations, text: str = "a") -> Generation:
        return generations.submit(text, {}, self.piece, self.end)


@pytest.fixture
async def maker() -> AsyncIterator[Maker]:
    made = Maker()
    yield made
    made.close()


@pytest.fixture
async def generations(maker: Maker) -> AsyncIterator[Generations]:
    made = await Generations.of(maker.handler, most=1, most_waiting=1, on_break=lambda error: None)
    yield made
    made.stop()


async def test_what_is_taken_makes_room_for_as_much(maker: Maker, generations: Generations) -> None:
    client = Client()
    one = client.ask(generations)
    assert await maker.hear() == {"id": one.number, "text": "a", "parameters": {}, "credit": WINDOW}
    for _ in range(3):
        await maker.say(one.number, piece="x")
        assert await maker.hear() == {"id": one.number, "credit": 1}
    await maker.say(one.number, end=True)
    assert (client.pieces, client.ends, generations.idle) == (["x"] * 3, [None], True)


async def test_who_takes_nothing_is_waited_for_and_then_given_all_at_once(
    maker: Maker, generations: Generations
) -> None:
    client = Client(room=False)
    one = client.ask(generations)
    await maker.hear()
    for _ in range(WINDOW):
        await maker.say(one.number, piece="x")
    assert len(client.pieces) == WINDOW and await maker.silent()
    generations.has_room(one)
    assert await maker.hear() == {"id": one.number, "credit": WINDOW}
    generations.has_room(one)
    await maker.say(one.number, end=True)
    generations.has_room(one)  # also once it has ended
    assert await maker.silent()


async def test_one_that_fails_at_a_piece_is_ended_and_makes_room(maker: Maker, generations: Generations) -> None:
    client, other = Client(), Client()
    first, second = client.ask(generations), other.ask(generations)
    with pytest.raises(QueueFull):
        other.ask(generations)
    await maker.hear()
    await maker.say(first.number, piece="too much")
    assert await maker.hear() == {"id": first.number, "cancel": True}
    assert (await maker.hear())["id"] == second.number
    await maker.say(first.number, piece="late")
    assert client.pieces == ["too much"] and [str(end) for end in client.ends] == ["too much"]
    await maker.say(second.number, error="broken")
    assert [type(end) for end in other.ends] == [ModelFailed]


async def test_who_is_cancelled_hears_nothing_and_who_is_stopped_hears_why(
    maker: Maker, generations: Generations
) -> None:
    gone, waiting, stopped = Client(), Client(), Client()
    first, second = gone.ask(generations), waiting.ask(generations)
    generations.cancel(second)
    third = stopped.ask(generations)
    generations.cancel(first)
    heard = [await maker.hear() for _ in range(3)]
    assert [(one["id"], "cancel" in one) for one in heard] == [
        (first.number, False),
        (first.number, True),
        (third.number, False),
    ]
    generations.stop()
    assert (gone.ends, waiting.ends, [type(end) for end in stopped.ends]) == ([], [], [Stopped])
    with pytest.raises(Stopped):
        gone.ask(generations)
