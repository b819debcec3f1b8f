"""What can go wrong between a URI and a folder, each with its reason and exit code from `docs/contracts.md`."""

from moorage_store import termination


class StoreError(Exception):
    """A failure with words for the user; `str()` of it is the whole story."""

    reason = "FetchFailed"
    code = termination.TRANSIENT


class Unreachable(StoreError):
    """The store or the way to it failed; the same try may well succeed later."""


class NoSpace(StoreError):
    """The volume is full. Trying again on it would not help."""

    code = termination.CONFIG


class NotFound(StoreError):
    reason = "ModelNotFound"
    code = termination.NO_INPUT


class AccessDenied(StoreError):
    reason = "AccessDenied"
    code = termination.NO_INPUT


class Corrupt(StoreError):
    reason = "ModelCorrupt"
    code = termination.DATA


class Unsafe(StoreError):
    """An archive that wants to write outside of its folder."""

    reason = "UnsafeModel"
    code = termination.DATA


class DigestMismatch(StoreError):
    reason = "DigestMismatch"
    code = termination.DATA


class Misconfigured(StoreError):
    reason = "InvalidConfiguration"
    code = termination.USAGE


class NotWritable(StoreError):
    reason = "OutputNotWritable"
    code = termination.CONFIG
