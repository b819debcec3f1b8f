"""One thing that is wrong with a pod, or awaited by it, in the words of who knows."""

from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["Capacity", "Environment", "Program", "Waiting"]

TRANSIENT = 75


@dataclass(frozen=True)
class Finding:
    """One pod's trouble. Program: a container of the pod ended badly, or runs and does not do its work. Environment:
    it could not be started. Capacity: no node takes it. Waiting: nothing is wrong yet."""

    kind: Kind
    reason: str
    message: str
    pod: str = ""
    container: str | None = None
    exit_code: int | None = None
    time: str | None = None
    restarts: int = 0
    report: dict[str, Any] = field(default_factory=dict)
    """The program's own termination message, where it wrote one."""
    telling: bool = False
    """Waiting, and yet to be remembered: something took longer than it should."""

    @property
    def transient(self) -> bool:
        """Worth trying again, as the program itself says by its exit code."""
        return self.exit_code == TRANSIENT
