"""What the parts of the core hand each other. Plain data, so that desired, status and scaling need not know one
another."""

from dataclasses import dataclass


class InvalidSpec(Exception):
    """A wish the schema could not refuse. `message` says what to write instead; the resource is Stalled until then."""

    def __init__(self, message: str, reason: str = "InvalidSpec") -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True)
class ResolvedModel:
    """What is to be served, after `fromTrainingJobs` has been looked up. Without a uri the image has its model
    inside."""

    uri: str | None
    format: str
    version: str
    sha256: str | None = None
    secret: str | None = None
    training_job: str | None = None


@dataclass(frozen=True)
class Waiting:
    """There is nothing to serve yet. Children that exist stay as they are."""

    reason: str
    message: str


@dataclass(frozen=True)
class Problem:
    """Why the reconciler could not do its work: an invalid spec, a child of somebody else, a refusal of the API server.

    `final` means that trying again cannot help until somebody changes something: Stalled.
    """

    reason: str
    message: str
    final: bool = True


@dataclass(frozen=True)
class Decision:
    """How many replicas, and why. `active` is the ScalingActive condition: status, reason, message."""

    replicas: int
    reason: str
    active: tuple[str, str, str]
