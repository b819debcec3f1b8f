"""What ends the server: it could not start, or its device or its model's process broke. In words for the person who
deployed the model.

The reasons and exit codes are those of the contract; what goes wrong with a single request lives in `protocol` and
`engine`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from moorage_store.errors import StoreError
from moorage_store.termination import CONFIG, DATA, NO_INPUT

FAILED = 1

EXIT_CODES = {
    "ModelNotFound": DATA,
    "ModelCorrupt": DATA,
    "DigestMismatch": DATA,
    "FormatMismatch": DATA,
    "UnsafeModel": DATA,
    "AccessDenied": NO_INPUT,
    "InvalidConfiguration": CONFIG,
    "PortInUse": CONFIG,
    # The device was asked for and is not there: a restart on the same node changes nothing.
    "DeviceUnavailable": CONFIG,
    # Worth another try.
    "OutOfMemory": FAILED,
    "LoadFailed": FAILED,
    "ModelCrashed": FAILED,
    "InternalError": FAILED,
}


class StartupError(Exception):
    """The server cannot serve; `reason` is one of `EXIT_CODES`, `message` says what to do instead."""

    def __init__(self, reason: str, message: str, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.exit_code = EXIT_CODES[reason] if exit_code is None else exit_code


class Lost(Exception):
    """The model is of no more use, and what runs it must begin anew."""


class DeviceLost(Lost):
    """The device failed for good: nothing runs on it any more in this process."""


class ModelCrashed(Lost):
    """The process of a model ended by itself."""


@contextmanager
def told() -> Iterator[None]:
    """What the store and the file system say of a model is a StartupError."""
    try:
        yield
    except StoreError as error:
        raise StartupError(error.reason, str(error)) from error
    except PermissionError as error:
        raise StartupError("AccessDenied", f"cannot read {error.filename}: {error.strerror}") from error
