"""The last words of a program that left no message of its own: the end of its log, as the kubelet keeps it (2 KB).

Whole traces help nobody in `kubectl describe`, and times or process ids would make every restart look like news. So of
the log of Triton (and others that log like glog) only errors are kept, without their prefix; of other logs the end.
"""

import re

_GLOG = re.compile(r"^([IWEF])\d{4} \d\d:\d\d:\d\d\.\d+\s+\d+ \S+\] +(.*)$")
_LINES = 5
_LENGTH = 1000


def last_words(log: str) -> str:
    lines = _without_chatter(log.splitlines()) or log.splitlines()
    tail = "\n".join(lines[-_LINES:]).strip()
    return tail if len(tail) <= _LENGTH else f"…{tail[-_LENGTH:]}"


def _without_chatter(lines: list[str]) -> list[str]:
    parsed = [_GLOG.match(line) for line in lines]
    if not any(parsed):
        return [line for line in lines if line.strip()]
    kept: list[str] = []
    for line, match in zip(lines, parsed, strict=True):
        if match is None:
            # Indented lines go on with what the line before began; tables are configuration.
            if line.strip() and not line.startswith((" ", "\t", "|", "+--", "At:")):
                kept.append(line)
        elif match.group(1) in "EF":
            kept.append(_unquoted(match.group(2)))
    return kept


def _unquoted(text: str) -> str:
    """glog of Triton writes a message as a quoted string; a Python error in it drags its stack along."""
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1].replace('\\"', '"').replace("\\n", "\n")
    return text.partition("\n\nAt:\n")[0].strip()
