"""A text in answer to one message of a gRPC stream, as Triton's decoupled models have it: every piece an answer, and
behind the last an empty one that says so, where that was asked for.

https://github.com/triton-inference-server/server/blob/main/docs/user_guide/decoupled_models.md. `generate` is its like
in HTTP, `generations` makes the pieces, `rpc` sends the answers.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from . import protobuf
from .handler import TEXT
from .protocol import BadRequest, InferRequest
from .repository import Entry
from .signature import Array

_FINAL = "triton_final_response"
_ASKS_FOR_FINAL = "triton_enable_empty_final_response"


class Text:
    def __init__(self, entry: Entry, asked: InferRequest, parameters: dict[str, Any], began: float) -> None:
        """Raises BadRequest."""
        if asked.rows != 1:
            raise BadRequest(f"text_input has {asked.rows} texts; a stream takes one in each message")
        self._entry, self._asked, self._began, self._begun = entry, asked, began, False
        self._final = bool(parameters.pop(_ASKS_FOR_FINAL, False))
        self.parameters = parameters
        self.input: str = asked.inputs[0].reshape(-1)[0].decode(errors="replace")

    def piece(self, text: str) -> bytes:
        self._entry.metrics.piece(self._began, first=not self._begun)
        self._begun = True
        return self._response(self._asked, [np.array([text.encode()], object)], final=False)

    def last(self) -> bytes | None:
        return self._response(replace(self._asked, outputs=()), (), final=True) if self._final else None

    def _response(self, asked: InferRequest, outputs: Sequence[Array], *, final: bool) -> bytes:
        source = self._entry.source
        answer = protobuf.answer(source.name, source.version, asked, outputs, TEXT)
        if self._final:
            answer.parameters[_FINAL].bool_param = final
        response: bytes = protobuf.CLASSES["ModelStreamInferResponse"](infer_response=answer).SerializeToString()
        return response
