"""Builds images with Docker and loads them into a kind cluster's nodes. Every command is a function that returns it."""

import os
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from cluster.images import BASE, Image
from cluster.progress import Progress
from cluster.stream import stream

# Docker passes these on by itself: they need no ARG and stay out of the image's history.
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")


def build_command(image: Image, context: Path, arguments: Mapping[str, str]) -> list[str]:
    given = [f"--build-arg={key}={value}" for key, value in {**arguments, **image.bases}.items()]
    proxies = [f"--build-arg={name}" for name in PROXIES if name in os.environ]
    return ["docker", "build", "--progress=plain", *given, *proxies, f"--tag={image.name}", str(context)]


def has_command(name: str) -> list[str]:
    return ["docker", "image", "inspect", name]


def load_command(kind: str, cluster: str, names: Iterable[str]) -> list[str]:
    return [kind, "load", "docker-image", *names, f"--name={cluster}"]


class DockerBuilder:
    folder: Path | None = None  # Docker's own storage, wherever that is

    def __init__(self, kind: str, cluster: str) -> None:
        self._kind = kind
        self._cluster = cluster

    def base(self, progress: Progress) -> str:
        return BASE

    def has(self, name: str) -> bool:
        return subprocess.run(has_command(name), capture_output=True, check=False, timeout=60).returncode == 0

    def build(self, image: Image, context: Path, arguments: Mapping[str, str], progress: Progress) -> None:
        stream(build_command(image, context, arguments), "docker build", progress)

    def deliver(self, names: Iterable[str], progress: Progress) -> None:
        """kind itself skips what its nodes have already."""
        stream(load_command(self._kind, self._cluster, names), "kind load", progress)
