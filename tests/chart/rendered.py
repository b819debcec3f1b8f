"""What `helm template` wrote, and the types the chart's tests share."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/moorage"
CRDS = sorted((ROOT / "crds").glob("*.yaml"))
Manifest = dict[str, Any]


class Refused(Exception):
    """helm ended with an error; these are its words."""


@dataclass(frozen=True)
class Rendered:
    """What `helm template` wrote."""

    manifests: tuple[Manifest, ...]

    def of(self, kind: str, name: str = "") -> list[Manifest]:
        return [m for m in self.manifests if m["kind"] == kind and name in ("", m["metadata"]["name"])]

    def one(self, kind: str, name: str = "") -> Manifest:
        found = self.of(kind, name)
        assert len(found) == 1, f"{len(found)} manifests of kind {kind} {name}"
        return found[0]

    @property
    def operator(self) -> Manifest:
        """The pod template of the operator."""
        template: Manifest = self.one("Deployment")["spec"]["template"]
        return template

    @property
    def environment(self) -> dict[str, str]:
        return {e["name"]: e["value"] for e in self.operator["spec"]["containers"][0]["env"]}


Helm = Callable[..., str]
Render = Callable[..., Rendered]
