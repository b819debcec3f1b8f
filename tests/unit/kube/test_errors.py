"""Which answer of the API server is final, which is tried again, and which is shown."""

import json
from typing import Any

import pytest

from moorage.kube.errors import (
    ApiError,
    Conflict,
    Expired,
    Forbidden,
    Invalid,
    NamespaceTerminating,
    NotFound,
    Transient,
    UnknownKind,
    error_from,
)


def status(message: str = "no", **more: Any) -> bytes:
    return json.dumps({"kind": "Status", "message": message, **more}).encode()


@pytest.mark.parametrize(
    ("code", "body", "kind"),
    [
        (404, status('services "a" not found', details={"name": "a", "kind": "services"}), NotFound),
        (404, status("the server could not find the requested resource", details={}), UnknownKind),
        (404, b"404 page not found", UnknownKind),
        (409, status(), Conflict),
        (410, status(), Expired),
        (403, status('deployments.apps is forbidden: User "x" cannot patch'), Forbidden),
        (403, status(details={"causes": [{"reason": "NamespaceTerminating"}]}), NamespaceTerminating),
        (401, status("Unauthorized"), Transient),
        (429, status("storage is (re)initializing"), Transient),
        (500, status("etcdserver: request timed out"), Transient),
        (503, b"upstream connect error", Transient),
        (400, status("strict decoding error"), Invalid),
        (422, status("spec.selector: field is immutable"), Invalid),
        # The API server's way to say that we sent a typo: retrying it for ever would help nobody.
        (500, status("failed to create typed patch object (…): .spec.replica: field not declared in schema"), Invalid),
    ],
)
def test_each_answer_has_its_own_error(code: int, body: bytes, kind: type[ApiError]) -> None:
    error = error_from(code, body, {})
    assert type(error) is kind
    assert error.status == code


def test_the_message_is_the_servers_own() -> None:
    assert (
        error_from(422, status("spec.replicas: must not be negative"), {}).message
        == "spec.replicas: must not be negative"
    )
    assert error_from(502, b"<html>Bad Gateway</html>", {}).message == "<html>Bad Gateway</html>"


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({"Retry-After": "7"}, status(), 7),
        ({}, status(details={"retryAfterSeconds": 3}), 3),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, status(), None),
        ({}, b"", None),
    ],
)
def test_retry_after_is_heard(headers: dict[str, str], body: bytes, seconds: float | None) -> None:
    assert error_from(429, body, headers).retry_after == seconds
