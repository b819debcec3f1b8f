"""The server's settings, from the environment alone: `docs/contracts.md` lists them with their defaults.

A value that makes no sense ends the server before anything else happens, naming the variable and what it may be.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import orjson

from moorage_store.digest import sha256_of
from moorage_store.formats import FILES

from .failures import StartupError

FORMATS = tuple(FILES)
DEVICES = ("Auto", "CPU", "CUDA")
LOG_LEVELS = ("debug", "info", "warning", "error")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


@dataclass(frozen=True)
class Source:
    """A model to serve, and where it is."""

    path: Path
    name: str
    version: str = "1"
    format: str = "TorchExport"
    sha256: str = ""

    def check_digest(self) -> None:
        """Raises StartupError where its content is another than was asked for."""
        if self.sha256 and (found := sha256_of(self.path)) != self.sha256:
            raise StartupError("DigestMismatch", f"expected sha256 {self.sha256}, {self.path} has {found}")


@dataclass(frozen=True)
class Settings:
    models: tuple[Source, ...]
    # A repository serves what is in memory and what a request brings there; one model alone is there or nothing is.
    repository: bool = False
    # Of all models together; 0: no limit.
    memory_budget_bytes: int = 0
    device: str = "Auto"
    max_batch_size: int = 64
    # No wait by default: what arrives while a batch runs makes the next batch, so load makes batches by itself.
    max_queue_delay_microseconds: int = 0
    max_queue_size: int = 1024
    max_body_bytes: int = 64 * 1024 * 1024
    # Of all requests that are read or wait; by default four bodies of the largest size, as memory is what they cost.
    max_total_body_bytes: int = 256 * 1024 * 1024
    # Beyond it the longest silent one makes room.
    max_connections: int = 4096
    # A head is a few hundred bytes: who takes longer is broken or means harm.
    header_timeout_seconds: int = 10
    # Time for the largest body (64 MiB) at 9 Mbit/s.
    body_timeout_seconds: int = 60
    # Longer than clients and proxies keep a connection (60 to 90 s): they close it, and no request meets its end.
    idle_timeout_seconds: int = 120
    drain_timeout_seconds: int = 30
    tls_folder: Path | None = None
    token_file: Path | None = None
    http_port: int = 8080
    metrics_port: int = 8082
    log_level: str = "info"

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> "Settings":
        # Kubernetes gives an unset optional value as an empty string as often as not at all.
        given = _Environment({name: value.strip() for name, value in env.items() if value.strip()})
        max_body_bytes = given.integer("MOORAGE_MAX_BODY_BYTES", cls.max_body_bytes, 1024, 1 << 40)
        models = given.models("MOORAGE_MODELS", Path(given.text("MOORAGE_MODEL_PATH")))
        return cls(
            models=models or (given.model(),),
            repository=bool(models),
            memory_budget_bytes=given.integer("MOORAGE_MEMORY_BUDGET_BYTES", cls.memory_budget_bytes, 0, 1 << 50),
            device=given.choice("MOORAGE_DEVICE", DEVICES, cls.device),
            max_batch_size=given.integer("MOORAGE_MAX_BATCH_SIZE", cls.max_batch_size, 1, 1 << 20),
            max_queue_delay_microseconds=given.integer(
                "MOORAGE_MAX_QUEUE_DELAY_MICROSECONDS", cls.max_queue_delay_microseconds, 0, 10_000_000
            ),
            max_queue_size=given.integer("MOORAGE_MAX_QUEUE_SIZE", cls.max_queue_size, 1, 1 << 20),
            max_body_bytes=max_body_bytes,
            # Room for one at least, however large one may be.
            max_total_body_bytes=given.integer(
                "MOORAGE_MAX_TOTAL_BODY_BYTES",
                max(cls.max_total_body_bytes, max_body_bytes),
                max_body_bytes,
                1 << 40,
            ),
            max_connections=given.integer("MOORAGE_MAX_CONNECTIONS", cls.max_connections, 1, 1 << 20),
            header_timeout_seconds=given.integer("MOORAGE_HEADER_TIMEOUT_SECONDS", cls.header_timeout_seconds, 1, 3600),
            body_timeout_seconds=given.integer("MOORAGE_BODY_TIMEOUT_SECONDS", cls.body_timeout_seconds, 1, 86400),
            idle_timeout_seconds=given.integer("MOORAGE_IDLE_TIMEOUT_SECONDS", cls.idle_timeout_seconds, 1, 86400),
            drain_timeout_seconds=given.integer("MOORAGE_DRAIN_TIMEOUT_SECONDS", cls.drain_timeout_seconds, 0, 86400),
            tls_folder=given.path("MOORAGE_TLS_FOLDER"),
            token_file=given.path("MOORAGE_TOKEN_FILE"),
            http_port=given.integer("MOORAGE_HTTP_PORT", cls.http_port, 0, 65535),
            metrics_port=given.integer("MOORAGE_METRICS_PORT", cls.metrics_port, 0, 65535),
            log_level=given.choice("MOORAGE_LOG_LEVEL", LOG_LEVELS, cls.log_level),
        )


class _Environment:
    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env

    def text(self, name: str, default: str = "") -> str:
        value = self._env.get(name, default)
        if not value:
            raise _invalid(f"{name} is not set")
        return value

    def model(self) -> Source:
        return Source(
            path=Path(self.text("MOORAGE_MODEL_PATH")),
            name=self.text("MOORAGE_MODEL_NAME"),
            version=self.text("MOORAGE_MODEL_VERSION", Source.version),
            format=self.choice("MOORAGE_MODEL_FORMAT", FORMATS, Source.format),
            sha256=self.digest("MOORAGE_MODEL_SHA256"),
        )

    def models(self, name: str, root: Path) -> tuple[Source, ...]:
        """A JSON list of those below `root`; none where it is not set."""
        if name not in self._env:
            return ()
        try:
            given = orjson.loads(self._env[name])
        except orjson.JSONDecodeError as error:
            raise _invalid(f"{name} is no JSON: {error}") from None
        if not isinstance(given, list) or not given:
            raise _invalid(f"{name} must be a list of models, at least one")
        found = tuple(_source(f"{name}[{i}]", one, root) for i, one in enumerate(given))
        names = [source.name for source in found]
        if twice := {one for one in names if names.count(one) > 1}:
            raise _invalid(f"{name} has more than one model named {', '.join(sorted(twice))}")
        return found

    def path(self, name: str) -> Path | None:
        value = self._env.get(name)
        return Path(value) if value else None

    def choice(self, name: str, choices: tuple[str, ...], default: str) -> str:
        value = self._env.get(name, default)
        if value not in choices:
            raise _invalid(f"{name} is {value!r}; it may be {', '.join(choices)}")
        return value

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        value = self._env.get(name, str(default))
        if not value.isascii() or not value.isdigit() or not low <= int(value) <= high:
            raise _invalid(f"{name} is {value!r}; it must be an integer from {low} to {high}")
        return int(value)

    def digest(self, name: str) -> str:
        value = self._env.get(name, "").lower().removeprefix("sha256:")
        if value and (len(value) != 64 or set(value) - set("0123456789abcdef")):
            raise _invalid(f"{name} is {value!r}; it must be 64 hexadecimal digits, or empty")
        return value


def _source(where: str, given: Any, root: Path) -> Source:
    """One of MOORAGE_MODELS."""
    if not isinstance(given, dict) or any(not isinstance(value, str) or not value for value in given.values()):
        raise _invalid(f"{where} must be an object of name, path, version and format, all texts")
    if unknown := given.keys() - {"name", "path", "version", "format"}:
        raise _invalid(f"{where} has {', '.join(sorted(unknown))}; it may have name, path, version and format")
    name, version = given.get("name", ""), given.get("version", Source.version)
    for field, value in (("name", name), ("version", version)):
        if not _NAME.fullmatch(value):
            raise _invalid(f"{where}.{field} is {value!r}; it must be of letters, digits, '.', '_' and '-'")
    path = PurePosixPath(given.get("path") or name)
    if path.is_absolute() or ".." in path.parts:
        raise _invalid(f"{where}.path is {str(path)!r}; it must lead downwards from MOORAGE_MODEL_PATH")
    form = given.get("format", Source.format)
    if form not in FORMATS:
        raise _invalid(f"{where}.format is {form!r}; it may be {', '.join(FORMATS)}")
    return Source(root / path, name, version, form)


def _invalid(message: str) -> StartupError:
    return StartupError("InvalidConfiguration", message)
