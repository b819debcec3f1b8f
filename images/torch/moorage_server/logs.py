"""The server's log: JSON lines on stdout, and an access log that load cannot turn into a flood.

No line ever holds a payload. At `debug` every request is a line; else a sample is, each with the number left out
before it.
"""

import json
import logging
import sys
from typing import Any

import orjson
import structlog


def configure(level: str) -> None:
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        # A stack trace is for those who work on the server; others get the words of the error itself.
        structlog.processors.format_exc_info if level == "debug" else _drop_trace,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer(serializer=_dumps)],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.BytesLoggerFactory(sys.stdout.buffer),
        cache_logger_on_first_use=True,
    )
    # Libraries log through the standard library: only what they think a warning, in the same form.
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(serializer=lambda event, **_: _dumps(event).decode()),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(threshold, logging.WARNING), force=True)
    logging.captureWarnings(level == "debug")


class AccessLog:
    """A line for a request: all at `debug`; else the first ten of each second that went well, and ten that did not."""

    PER_SECOND = 10

    def __init__(self, level: str) -> None:
        self._log: Any = structlog.get_logger()
        self._all = level == "debug"
        self._good = level in ("debug", "info")
        self._second = {True: -1.0, False: -1.0}
        self._written = {True: 0, False: 0}
        self._left_out = {True: 0, False: 0}

    def wanted(self, status: int, now: float) -> bool:
        """Whether this request gets a line; asked once for each, as those that get none are counted. `now`: seconds."""
        good = status < 400
        if self._all:
            return True
        if good and not self._good:
            return False
        if now >= self._second[good] + 1:
            self._second[good], self._written[good] = now, 0
        elif self._written[good] >= self.PER_SECOND:
            self._left_out[good] += 1
            return False
        self._written[good] += 1
        return True

    def write(self, status: int, method: str, path: str, seconds: float, **more: Any) -> None:
        good = status < 400
        if left_out := self._left_out[good]:
            more["left_out"] = left_out
            self._left_out[good] = 0
        write = self._log.info if good else self._log.warning
        write("request", method=method, path=path[:200], status=status, milliseconds=round(seconds * 1000, 3), **more)


def _drop_trace(_logger: Any, _name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    error = event.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()
    if isinstance(error, tuple):
        error = error[1]
    if isinstance(error, BaseException):
        event["error"] = f"{type(error).__name__}: {error}"
    return event


def _dumps(event: Any, **_: Any) -> bytes:
    try:
        return orjson.dumps(event, default=str)
    except orjson.JSONEncodeError:  # names of files and paths of requests can be bytes that are no text
        return json.dumps(event, default=str).encode()
