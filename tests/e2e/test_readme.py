"""The README's own manifests and kubectl commands, on the real API server."""

import re
from pathlib import Path

import httpx
import pytest

from cluster import Cluster
from support import deploy

README = (deploy.ROOT / "README.md").read_text()


@pytest.mark.timeout(400)
def test_its_first_manifest_trains_and_serves(moorage: Cluster, ns: str, tmp_path: Path) -> None:
    """Each line of its two blocks, in a namespace of its own; the door stands for the port-forward."""
    table = [(40 + 7 * i % 121, 1 + i % 5, i % 61) for i in range(2000)]
    lines = [f"{area},{rooms},{age},{3 * area + 10 * rooms - age}" for area, rooms, age in table]
    (tmp_path / "prices.csv").write_text("\n".join(["area,rooms,age,price", *lines]))
    (block,) = re.findall(r"```yaml\n(.*?)```", README, re.S)
    (tmp_path / "prices.yaml").write_text(block)
    claim = (
        (deploy.ROOT / "examples/quickstart/claim.yaml").read_text().replace("namespace: default", f"namespace: {ns}")
    )
    (tmp_path / "claim.yaml").write_text(claim)
    commands = re.findall(r"^kubectl ((?:create|apply|wait) [^#\n]+)", README, re.M)
    assert [command.split()[0] for command in commands] == ["create", "apply", "apply", "wait"]
    for command in commands:
        told = re.sub(
            r"\w+\.(csv|yaml)", lambda file: str(tmp_path / file[0]), command.replace("examples/quickstart/", "")
        )
        moorage.kubectl(*told.replace("=10m", "=300s").split(), "-n", ns, timeout=310)
    (body,) = re.findall(r"/infer -d \\\n +'(.*?)'", README)
    with moorage.door(ns, "prices", 8080) as address:
        assert httpx.get(f"http://{address}/v2/models/prices").json()["inputs"][0]["shape"] == [-1, 3]
        answer = httpx.post(f"http://{address}/v2/models/prices/infer", content=body, timeout=30).json()
    # 3 · 100 + 10 · 3 − 10
    assert answer["outputs"][0]["data"] == [pytest.approx(320, rel=0.2)]


def test_its_read_only_kubectl_commands_work(moorage: Cluster) -> None:
    commands = re.findall(r"^kubectl ((?:get|explain) [^#\n]+)", README, re.M)
    assert commands
    for command in commands:
        assert moorage.kubectl(*command.split()) or "get" in command
