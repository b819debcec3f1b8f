"""The README's own manifests and kubectl commands, on the real API server."""

import re

from cluster import Cluster
from support import deploy

README = (deploy.ROOT / "README.md").read_text()


def test_its_manifests_are_accepted(moorage: Cluster) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", README, re.S)
    moorage.kubectl("apply", "--dry-run=server", "-f", "-", input=block)


def test_its_read_only_kubectl_commands_work(moorage: Cluster) -> None:
    commands = re.findall(r"^kubectl ((?:get|explain) [^#\n]+)", README, re.M)
    assert commands
    for command in commands:
        assert moorage.kubectl(*command.split()) or "get" in command
