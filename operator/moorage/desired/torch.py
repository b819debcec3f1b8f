"""The torch model server: its container and the environment docs/contracts.md promises it."""

import json
import math
from dataclasses import dataclass, field
from typing import Any

from moorage.api.facts import ResolvedModel
from moorage.api.modeldeployment import ModelDeployment
from moorage.api.names import HTTP_PORT, METRICS_PORT
from moorage.api.runtimes import RepositoryModel, Torch
from moorage.desired import pods, quantity, runtime
from moorage.desired.defaults import Defaults
from moorage.desired.meta import Manifest
from moorage.desired.model import place


def parts(md: ModelDeployment, torch: Torch, model: ResolvedModel, defaults: Defaults) -> runtime.Parts:
    # Of a single model the server itself checks the digest, while it reads it anyway.
    placed = place(md, model, defaults, verify=bool(torch.models))
    secrets = _secrets(torch)
    container, volumes = runtime.container(
        md,
        defaults.torch_image,
        defaults,
        mounts=[*placed.mounts, *secrets.mounts],
        ours=True,
        command=["python", "-m", "moorage_server"],
        ports=runtime.ports(),
        env=pods.env(
            MOORAGE_MODEL_PATH=placed.path or "",
            **(_several(torch, torch.models) if torch.models else _one(md, model, checked=placed.decrypted)),
            MOORAGE_DEVICE=torch.device,
            MOORAGE_MAX_BATCH_SIZE=torch.max_batch_size,
            MOORAGE_MAX_QUEUE_DELAY_MICROSECONDS=torch.max_queue_delay_microseconds,
            MOORAGE_MAX_QUEUE_SIZE=torch.max_queue_size,
            MOORAGE_MAX_BODY_BYTES=torch.max_body_bytes,
            MOORAGE_DRAIN_TIMEOUT_SECONDS=md.spec.drain.timeout_seconds,
            MOORAGE_HTTP_PORT=HTTP_PORT,
            MOORAGE_METRICS_PORT=METRICS_PORT,
            OMP_NUM_THREADS=pods.threads(md.spec.resources),
        )
        + secrets.env
        + pods.home(),
        **runtime.protocol_probes(tls=torch.tls_secret_ref is not None),
    )
    # Its one port tells HTTP/1.1 from gRPC by the first bytes of a connection.
    return runtime.Parts(container, [*placed.volumes, *secrets.volumes, *volumes], placed.init, grpc="http")


def _one(md: ModelDeployment, model: ResolvedModel, *, checked: bool) -> dict[str, str]:
    return {
        "MOORAGE_MODEL_NAME": md.metadata.name,
        "MOORAGE_MODEL_VERSION": model.version,
        "MOORAGE_MODEL_FORMAT": model.format,
        "MOORAGE_MODEL_SHA256": "" if checked else model.sha256 or "",
    }


def _several(torch: Torch, models: list[RepositoryModel]) -> dict[str, Any]:
    listed = [model.model_dump(include={"name", "path", "version", "format"}, exclude_none=True) for model in models]
    budget = quantity.value(torch.memory_budget)
    return {
        "MOORAGE_MODELS": json.dumps(listed, separators=(",", ":")),
        "MOORAGE_MEMORY_BUDGET_BYTES": math.floor(budget) if budget is not None else 0,
    }


@dataclass(frozen=True)
class _Secrets:
    """What the server is to read of Secrets. Folders are mounted: a single file would never change."""

    env: list[Manifest] = field(default_factory=list)
    mounts: list[Manifest] = field(default_factory=list)
    volumes: list[Manifest] = field(default_factory=list)

    def add(self, name: str, secret: Manifest, variable: str, file: str = "") -> None:
        folder = f"/etc/moorage/{name}"
        self.env.append({"name": variable, "value": folder + file})
        self.mounts.append({"name": name, "mountPath": folder, "readOnly": True})
        self.volumes.append({"name": name, "secret": secret})


def _secrets(torch: Torch) -> _Secrets:
    found = _Secrets()
    if tls := torch.tls_secret_ref:
        found.add("tls", {"secretName": tls.name}, "MOORAGE_TLS_FOLDER")
    if token := torch.token_secret_ref:
        found.add("tokens", pods.secret_entry(token), "MOORAGE_TOKEN_FILE", f"/{token.key}")
    return found
