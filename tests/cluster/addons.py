"""What a cluster needs beside Kubernetes: DNS, GPUs, shared storage, Prometheus and S3, all as plain manifests.

Storage has no provisioner: a fixed number of volumes lie ready in a folder that every node sees, and those that a
deleted claim has left are emptied and offered again each time the add-ons are applied.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from cluster.commands import until
from cluster.interface import Cluster, ClusterError

MANIFESTS = Path(__file__).parent / "manifests"
VOLUMES, VOLUME_SIZE = 50, "20Gi"
VOLUME_LABEL = {"moorage.dev/test-volume": "shared"}
BUCKET = "moorage"
READY_SECONDS = 120

# Workloads to wait for, by the image they run.
WORKLOADS = {
    "coredns": ("kube-system", "daemonset/coredns"),
    "fakegpu": ("kube-system", "daemonset/fakegpu"),
    "prometheus": ("monitoring", "deployment/prometheus"),
    "versitygw": ("storage", "deployment/s3"),
}
FILES = {"coredns": "coredns.yaml", "fakegpu": "gpus.yaml", "prometheus": "prometheus.yaml", "versitygw": "s3.yaml"}

Manifest = dict[str, Any]


def apply(
    cluster: Cluster, images: Mapping[str, str], folder: Path, empty: Callable[[Path], None] | None = None
) -> None:
    """Applies all of them and waits until they work; twice is harmless. `folder` is the one that every node sees."""
    make_folders(folder)
    objects = [*manifests(images), *volumes(folder)]
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=as_list(objects))
    recycle(cluster, folder, empty or remove_content)
    make_bucket(cluster, folder)
    for key, (namespace, workload) in WORKLOADS.items():
        if key in images:
            wait_ready(cluster, namespace, workload)


def manifests(images: Mapping[str, str]) -> Iterator[Manifest]:
    """The storage class, and of the rest what there are images for."""
    for name in ["storage.yaml", *(file for key, file in FILES.items() if key in images)]:
        for manifest in yaml.safe_load_all((MANIFESTS / name).read_text()):
            for container in manifest.get("spec", {}).get("template", {}).get("spec", {}).get("containers", []):
                container["image"] = images[container["image"]]
            yield manifest


def volumes(folder: Path) -> Iterator[Manifest]:
    for path in volume_folders(folder):
        yield {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": path.name, "labels": VOLUME_LABEL},
            "spec": {
                "storageClassName": "shared",
                "capacity": {"storage": VOLUME_SIZE},
                "accessModes": ["ReadWriteMany", "ReadWriteOnce", "ReadOnlyMany"],
                "persistentVolumeReclaimPolicy": "Retain",
                "hostPath": {"path": str(path), "type": "Directory"},
            },
        }


def volume_folders(folder: Path) -> list[Path]:
    return [folder / f"shared-{i:02}" for i in range(VOLUMES)]


def make_folders(folder: Path) -> None:
    """For everybody to write in: pods run as users of their own, and a hostPath volume knows no fsGroup."""
    for path in volume_folders(folder):
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o777)


def remove_content(folder: Path) -> None:
    """Removes what lies in a folder, not the folder, which nodes have mounted."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def recycle(cluster: Cluster, folder: Path, empty: Callable[[Path], None] = remove_content) -> list[str]:
    """Empties the volumes whose claims were deleted and offers them again; their names."""
    selector = ",".join(f"{key}={value}" for key, value in VOLUME_LABEL.items())
    listed = json.loads(cluster.kubectl("get", "persistentvolumes", "-l", selector, "-o", "json"))
    released = [item["metadata"]["name"] for item in listed["items"] if item["status"].get("phase") == "Released"]
    for name in released:
        empty(folder / name)
        cluster.kubectl("patch", "persistentvolume", name, "--type=merge", "-p", '{"spec": {"claimRef": null}}')
    return released


def make_bucket(cluster: Cluster, folder: Path) -> None:
    """To the S3 server a folder in its volume is a bucket."""

    def volume() -> str:
        return cluster.kubectl("get", "pvc", "s3", "-n", "storage", "-o", "jsonpath={.spec.volumeName}")

    until("the S3 server's claim is bound", lambda: bool(volume()), timeout=30)
    bucket = folder / volume() / BUCKET
    bucket.mkdir(exist_ok=True)
    bucket.chmod(0o777)


def wait_ready(cluster: Cluster, namespace: str, workload: str) -> None:
    try:
        cluster.kubectl(
            "rollout", "status", workload, "-n", namespace, f"--timeout={READY_SECONDS}s", timeout=READY_SECONDS + 10
        )
    except ClusterError as error:
        pods = cluster.kubectl("get", "pods", "-n", namespace, "-o", "wide")
        raise ClusterError(f"{namespace}/{workload} does not become ready: {error}\n{pods}") from None


def as_list(objects: list[Manifest]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
