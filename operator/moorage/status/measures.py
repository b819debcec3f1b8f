"""What a training measures, as the API has it: whole numbers as such, others as text. What has another form is left
out: a program of the user's writes it, and one wrong type would make the API server refuse the whole status."""

import math
from typing import Any

Object = dict[str, Any]

_MOST_METRICS = 64
# Of a text in the schema, and of a whole number in JSON as the API server reads it.
_LONGEST = 1024
_LARGEST = 2**63 - 1


def progress(reported: Object | None, before: Object | None, *, done: bool) -> Object | None:
    """How far it is. Without a fresh report what was known stays; at the end it is all done."""
    found = _progress(reported) if reported else dict(before or {})
    if not done:
        return found or None
    found = {key: value for key, value in found.items() if key not in ("eta", "etaSeconds")}
    if "totalSteps" in found:
        found["step"] = found["totalSteps"]
    return {**found, "percent": 100, "summary": "100%"}


def _progress(reported: Object) -> Object:
    found: Object = {}
    for key in ("step", "totalSteps", "epoch", "etaSeconds", "percent"):
        number = whole(reported.get(key))
        if number is not None:
            found[key] = number
    if "percent" in found:
        found["summary"] = f"{found['percent']}%"
    if "etaSeconds" in found:
        found["eta"] = duration(found["etaSeconds"])
    if (speed := text(reported.get("samplesPerSecond"))) is not None:
        found["samplesPerSecond"] = speed
    return found


def metrics(reported: Object | None, result: Object, before: Object | None) -> dict[str, str] | None:
    """The final ones where they are known, else the latest."""
    for source in (result.get("metrics"), (reported or {}).get("metrics")):
        if isinstance(source, dict) and source:
            known = {
                str(name)[:63]: text(value) for name, value in sorted(source.items(), key=lambda item: str(item[0]))
            }
            found = {name: value for name, value in known.items() if value is not None}
            return dict(list(found.items())[:_MOST_METRICS])
    return before


def output(result: Object) -> Object | None:
    """The published model, from the trainer's last message."""
    reported = result.get("output")
    if not isinstance(reported, dict) or not _is_text(reported.get("uri")):
        return None
    found: Object = {"uri": reported["uri"]}
    if _is_text(reported.get("sha256")):
        found["sha256"] = reported["sha256"]
    if (size := whole(reported.get("sizeBytes"))) is not None:
        found["sizeBytes"] = size
    return found


def whole(value: Any) -> int | None:
    if not _is_number(value) or abs(int(value)) > _LARGEST:
        return None
    return int(value)


def text(value: Any) -> str | None:
    """A number with as many digits as mean something."""
    if not _is_number(value):
        return None
    return str(value) if isinstance(value, int) and abs(value) <= _LARGEST else f"{value:.6g}"


def _is_number(value: Any) -> bool:
    """One that a float can hold: JSON has no bounds, and Python's whole numbers have none either."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST


def duration(seconds: int) -> str:
    """The two largest units, as kubectl shows ages."""
    units = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
    parts: list[str] = []
    for name, size in units:
        count, seconds = divmod(max(0, seconds), size)
        if count or (parts and len(parts) < 2):
            parts.append(f"{count}{name}")
    return "".join(part for part in parts[:2] if not part.startswith("0")) or "0s"
