"""The generate extension: a text in, a text out, in one piece or as server-sent events.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_generate.md, and for the events
https://html.spec.whatwg.org/multipage/server-sent-events.html. `edge` says which paths there are, `generations` makes
the pieces.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from .messages import Request, Response
from .metrics import ModelMetrics
from .protocol import BadRequest

EVENTS = "text/event-stream; charset=utf-8"
_NOT_KEPT = "Cache-Control: no-cache\r\n"
_OWN = ("id", "text_input", "parameters")


class TooLong(Exception):
    """The text has become longer than an answer may be."""


@dataclass(frozen=True, slots=True)
class Asked:
    text: str
    parameters: Mapping[str, Any]
    id: str = ""


def parse(body: bytes | bytearray) -> Asked:
    """Raises BadRequest."""
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    if not isinstance(request, dict) or not isinstance(text := request.get("text_input"), str):
        raise BadRequest('the body must be a JSON object with "text_input", a text')
    if not isinstance(id := request.get("id", ""), str):
        raise BadRequest('"id" must be a string')
    if not isinstance(parameters := request.get("parameters") or {}, dict):
        raise BadRequest('"parameters" must be an object')
    # What is none of these is a parameter, too: so Triton has it.
    return Asked(text, {**{name: value for name, value in request.items() if name not in _OWN}, **parameters}, id)


Told = Callable[[BaseException], Response]


class Whole:
    """An answer in one piece."""

    def __init__(
        self, request: Request, common: dict[str, Any], told: Told, metrics: ModelMetrics, longest: int
    ) -> None:
        self._request, self._common, self._told, self._metrics = request, common, told, metrics
        self._pieces: list[str] = []
        self._room = longest

    def piece(self, text: str) -> bool:
        """Raises TooLong."""
        self._metrics.piece(self._request.began, first=not self._pieces)
        self._pieces.append(text)
        self._room -= len(text)
        if self._room < 0:
            raise TooLong("the text is longer than an answer may be; ask for it as a stream")
        return True

    def end(self, failed: Exception | None) -> None:
        if failed is not None:
            self._request.answer(self._told(failed))
            return
        self._request.answer(Response(200, orjson.dumps({**self._common, "text_output": "".join(self._pieces)})))


class Events:
    """An answer piece by piece. What goes wrong before the first of them is an answer of its own status."""

    def __init__(self, request: Request, common: dict[str, Any], told: Told, metrics: ModelMetrics) -> None:
        self._request, self._common, self._told, self._metrics = request, common, told, metrics
        self._begun = False

    def piece(self, text: str) -> bool:
        self._metrics.piece(self._request.began, first=not self._begun)
        return self._send({**self._common, "text_output": text})

    def end(self, failed: Exception | None) -> None:
        if failed is not None:
            response = self._told(failed)
            if not self._begun:
                self._request.answer(response)
                return
            self._send({"error": response.error})
            self._request.end(response.status, response.error)
            return
        if not self._begun:
            self._begin()
        self._request.end(200, "")

    def _send(self, content: dict[str, Any]) -> bool:
        if not self._begun:
            self._begin()
        return self._request.write(b"data: " + orjson.dumps(content) + b"\n\n")

    def _begin(self) -> None:
        self._begun = True
        self._request.begin(EVENTS, _NOT_KEPT)
