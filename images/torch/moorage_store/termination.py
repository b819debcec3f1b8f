"""How a program of ours ends: one JSON object for the kubelet to keep, and an exit code that says whether to retry.

The kubelet cuts a termination message at 4,096 bytes, which would leave broken JSON, so the message is shortened here
first. Lines of log lose before words of reason do.
"""

import json
import os
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NoReturn

USAGE, DATA, NO_INPUT, TRANSIENT, CONFIG = 64, 65, 66, 75, 78

MAX_BYTES = 4000


def write(reason: str, message: str = "", **extra: Any) -> None:
    """Leaves the termination message. Outside a pod, where the kubelet put no file, there is nobody to leave it to."""
    path = Path(os.environ.get("MOORAGE_TERMINATION_LOG") or "/dev/termination-log")
    if not path.exists() and "MOORAGE_TERMINATION_LOG" not in os.environ:
        return
    body: dict[str, Any] = {"reason": _cut(reason, 100), **({"message": message} if message else {}), **extra}
    # Not datetime.UTC: a Python of before 3.11 shall still be able to say that it is too old.
    body["time"] = datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")  # noqa: UP017
    try:
        path.write_bytes(_encode(body))
    except OSError as error:
        print(f"cannot write the termination message {path}: {error}", file=sys.stderr)


def one_line(error: BaseException) -> str:
    """The error's kind and the first line of its words."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def fail(code: int, reason: str, message: str, **extra: Any) -> NoReturn:
    """Says what went wrong, on stderr and in the termination message, and ends the program."""
    write(reason, message, **extra)
    print(f"{reason}: {message}", file=sys.stderr, flush=True)
    raise SystemExit(code)


def _encode(body: Mapping[str, Any]) -> bytes:
    short = dict(body)
    if "lastLines" in short:
        short["lastLines"] = [_cut(line, 500) for line in short["lastLines"]]
    while len(data := _dump(short)) > MAX_BYTES:
        if short.get("lastLines"):
            short["lastLines"] = short["lastLines"][1:]
        elif len(short.get("message", "")) > 200:
            short["message"] = _cut(short["message"], len(short["message"]) * 9 // 10)
        else:  # better without an extra than with half of it: the largest goes first
            extras = [key for key in short if key not in ("reason", "message", "time")]
            del short[max(extras, key=lambda key: len(json.dumps(short[key])))]
    return data


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _dump(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
