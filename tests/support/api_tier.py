"""What integration tests need of the API tier: the CRDs, the operator's rights, and operators as processes."""

import json
import subprocess
from pathlib import Path

import yaml

from cluster import Cluster
from support import deploy
from support.operator_process import OperatorProcess

ROOT = Path(__file__).parents[2]
SYSTEM = deploy.NAMESPACE


def apply_crds(cluster: Cluster) -> None:
    files = [f"--filename={ROOT / 'crds' / name}.yaml" for name in ("modeldeployments", "trainingjobs")]
    cluster.kubectl("apply", "--server-side", "--force-conflicts", *files)
    for crd in ("modeldeployments.moorage.dev", "trainingjobs.moorage.dev"):
        cluster.kubectl("wait", "--for=condition=Established", f"crd/{crd}", "--timeout=20s")


def operator_kubeconfig(cluster: Cluster, folder: Path, *values: str, release: str = deploy.RELEASE) -> Path:
    """A kubeconfig of the operator's ServiceAccount, with the rights the chart gives it and no others."""
    shown = [f"--show-only=templates/{name}.yaml" for name in ("serviceaccount", "rbac")]
    rendered = cluster.helm(
        "template", release, str(ROOT / "charts/moorage"), "--namespace", SYSTEM, *shown,
        *(part for value in values for part in ("--set", value)),
    )  # fmt: skip
    cluster.kubectl("apply", "-f", "-", input=rendered)
    account = next(doc for doc in yaml.safe_load_all(rendered) if doc and doc["kind"] == "ServiceAccount")
    token = cluster.kubectl("create", "token", account["metadata"]["name"], "-n", SYSTEM, "--duration=2h").strip()
    config = yaml.safe_load(cluster.kubeconfig.read_text())
    config["users"] = [{"name": user["name"], "user": {"token": token}} for user in config["users"]]
    path = folder / f"{release}.kubeconfig"
    path.write_text(json.dumps(config))
    return path


class Fleet:
    """The operators of a test run: one that stays for all tests that need just any, others for a single test."""

    def __init__(self, cluster: Cluster, kubeconfig: Path, folder: Path) -> None:
        self._cluster, self._kubeconfig, self._folder = cluster, kubeconfig, folder
        self._resident: OperatorProcess | None = None
        self._guests: list[OperatorProcess] = []

    def resident(self) -> OperatorProcess:
        if self._resident is None or not self._resident.running:
            self._resident = OperatorProcess(self._kubeconfig, self._folder, f"resident-{id(object())}").start()
        return self._resident.until("serves")

    def start(self, name: str, *, kubeconfig: Path | None = None, **settings: object) -> OperatorProcess:
        guest = OperatorProcess(kubeconfig or self._kubeconfig, self._folder, f"{name}-{len(self._guests)}", **settings)
        self._guests.append(guest)
        return guest.start()

    def clear(self) -> None:
        for operator in (*self._guests, self._resident):
            if operator is not None and operator.running:
                try:
                    operator.stop()
                except (AssertionError, subprocess.TimeoutExpired):
                    operator.kill()
        self._resident = None
        # One that was killed would keep the next one waiting.
        self._cluster.kubectl("delete", "lease", "moorage-operator", "-n", SYSTEM, "--ignore-not-found")
