"""What the API server may answer, as the few cases a reconcile treats differently.

`Invalid` is final until something changes, `Forbidden` is shown and tried again slowly, `Transient` is tried again
soon and never shown. Nothing here knows what is being reconciled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

# A mistake in what we (or the user's podTemplate) sent comes back as a 500 without a reason: retrying cannot help.
TYPED_PATCH = "failed to create typed patch object"


class ApiError(Exception):
    def __init__(self, message: str, *, status: int = 0, reason: str = "", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.reason = reason
        self.retry_after = retry_after


class NotFound(ApiError):
    """404: the object, its namespace or its whole kind is not there."""


class UnknownKind(NotFound):
    """404 that names no object: nobody serves this kind."""


class Conflict(ApiError):
    """409: somebody else was first."""


class Expired(ApiError):
    """410: a list's continue token is too old; begin again."""


class Forbidden(ApiError):
    """403: rights are missing, or a quota or policy refuses."""


class NamespaceTerminating(ApiError):
    """403 of a namespace on its way out: nothing is to be done there any more."""


class Invalid(ApiError):
    """The API server will never accept this."""


class Transient(ApiError):
    """Trouble of the moment: the server is busy, restarting or out of reach."""


def error_from(status: int, body: bytes, headers: Mapping[str, str]) -> ApiError:
    answer = _status_object(body)
    message = str(answer.get("message") or body[:500].decode(errors="replace") or f"HTTP {status}")
    reason = str(answer.get("reason") or "")
    kind: type[ApiError]
    match status:
        case 404:
            kind = NotFound if (answer.get("details") or {}).get("name") else UnknownKind
        case 409:
            kind = Conflict
        case 410:
            kind = Expired
        case 403:
            kind = NamespaceTerminating if _has_cause(answer, "NamespaceTerminating") else Forbidden
        case 401 | 408 | 429:
            kind = Transient
        case _ if 400 <= status < 500 or TYPED_PATCH in message:
            kind = Invalid
        case _:
            kind = Transient
    return kind(message, status=status, reason=reason, retry_after=_retry_after(answer, headers))


def _status_object(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _has_cause(answer: dict[str, Any], reason: str) -> bool:
    causes = (answer.get("details") or {}).get("causes") or []
    return any(cause.get("reason") == reason for cause in causes)


def _retry_after(answer: dict[str, Any], headers: Mapping[str, str]) -> float | None:
    for value in (headers.get("Retry-After"), (answer.get("details") or {}).get("retryAfterSeconds")):
        try:
            if value:
                return float(value)
        except ValueError:
            continue  # an HTTP date: no API server sends one, a proxy might
    return None
