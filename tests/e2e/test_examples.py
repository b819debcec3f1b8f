"""Every example is applied as it lies there, and does what its header says: trains to the end, becomes ready.

In a namespace of the `restricted` Pod Security level, and with no difference afterwards between the files and what is
in the cluster. Server-side apply is in tests/integration/test_no_drift.py.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster import Cluster
from support import deploy

EXAMPLES = deploy.ROOT / "examples"
# These have tests of their own.
FILES = sorted(
    p for p in EXAMPLES.rglob("*.yaml") if p.parent.name not in {"quickstart", "argocd", "several", "generate"}
)


def documents(path: Path) -> list[dict[str, Any]]:
    return [d for d in yaml.safe_load_all(path.read_text()) if d]


@pytest.mark.timeout(400)
@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_example(moorage: Cluster, ns: str, path: Path) -> None:
    moorage.kubectl("label", "namespace", ns, "pod-security.kubernetes.io/enforce=restricted")
    moorage.kubectl("apply", "-n", ns, "-f", str(path))
    ours = [d for d in documents(path) if d["apiVersion"].startswith("moorage.dev/")]
    assert ours
    for doc in ours:
        kind, name = doc["kind"].lower(), doc["metadata"]["name"]
        wanted = "Succeeded" if kind == "trainingjob" else "Ready"
        deploy.wait_for_condition(moorage, kind, name, wanted, namespace=ns, timeout=150)
    assert deploy.drift(moorage, "-n", ns, "-f", str(path)) == ""
