"""What the operator tells the launcher by environment variables (`docs/contracts.md`), read once."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


class BadEnvironment(ValueError):
    """A variable is missing or makes no sense; the operator or the user set it wrong."""


@dataclass(frozen=True)
class Settings:
    index: int
    nodes: str  # as torchrun has it: N, or MIN:MAX
    processes: str
    endpoint_host: str
    endpoint_port: int
    data_uri: str
    data_path: Path | None
    output_uri: str
    output_mount: Path | None
    recipe: str
    job: str
    status_port: int

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> "Settings":
        host, _, port = environ.get("PET_RDZV_ENDPOINT", "localhost:29400").rpartition(":")
        if not host:
            raise BadEnvironment("PET_RDZV_ENDPOINT must be HOST:PORT")
        return cls(
            index=_integer(environ, "JOB_COMPLETION_INDEX", 0),
            nodes=environ.get("PET_NNODES", "1"),
            processes=environ.get("PET_NPROC_PER_NODE", "1"),
            endpoint_host=host,
            endpoint_port=int(port) if port.isdigit() else 29400,
            data_uri=environ.get("MOORAGE_DATA_URI", ""),
            data_path=_path(environ, "MOORAGE_DATA_PATH"),
            output_uri=environ.get("MOORAGE_OUTPUT_URI", ""),
            output_mount=_path(environ, "MOORAGE_OUTPUT_MOUNT"),
            recipe=environ.get("MOORAGE_RECIPE", ""),
            job=environ.get("MOORAGE_JOB", "job"),
            status_port=_integer(environ, "MOORAGE_STATUS_PORT", 8080),
        )

    @property
    def is_first(self) -> bool:
        return self.index == 0


def _integer(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name) or str(default)
    if not text.isdigit():
        raise BadEnvironment(f"{name} must be a whole number, not {text!r}")
    return int(text)


def _path(environ: Mapping[str, str], name: str) -> Path | None:
    return Path(environ[name]) if environ.get(name) else None
