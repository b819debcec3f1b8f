"""Builds images without Docker: Debian's buildah, pushing into a folder that the nodes' registry serves.

Pushes go through a registry process of our own on the loopback over that folder, so it does not matter whether a
cluster is up. Every tool runs in mount and process namespaces of its own: a build that is killed leaves neither.
"""

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from cluster import cache
from cluster.images import BASE, Image
from cluster.interface import ClusterError, Unavailable
from cluster.packages import IMAGES, require
from cluster.progress import Progress
from cluster.stream import stream

# Dies with us, also when we are killed.
TIED = ["setpriv", "--pdeathsig", "KILL"]
APART = [*TIED, "unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
# buildah keeps more than its storage below this folder: it sees ours there.
CONTAINERS = Path("/var/lib/containers")
OURS = ["sh", "-c", f'mount --bind "$1" {CONTAINERS} && shift && exec "$@"', "sh"]
# The same port each time, if it is free: buildah remembers which layers the registry of that address has.
PORT = 15799

# Builds reach package indexes the way this machine does.
HOST_FILES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pip.conf")

# python:3.11-slim-bookworm out of Debian's packages. usr-is-merged spares a perl; the library is for programs that
# embed Python, as in the upstream image; pip may install system-wide, as there.
SUITE = "bookworm"
BASE_OPTIONS = [
    "--variant=minbase",
    "--include=usr-is-merged,python3,python3-pip,python3-venv,libpython3.11,ca-certificates",
    "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
    *(f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("doc", "man", "locale", "info")),
    '--customize-hook=rm "$1"/usr/lib/python3*/EXTERNALLY-MANAGED',
    '--customize-hook=ln -s python3 "$1"/usr/bin/python',
]
BASE_DOCKERFILE = 'FROM scratch\nADD root.tar /\nENV LANG=C.UTF-8\nCMD ["python3"]\n'


class Buildah:
    """Use it in a `with` block: it holds the cache's lock and a registry process from the first build to the end."""

    def __init__(self, registry: Path) -> None:
        self.folder = cache.root()
        self._registry = registry
        self._blobs = self.folder / "registry"
        self._open = ExitStack()
        self._address = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._address = ""
        self._open.close()

    def has(self, name: str) -> bool:
        path, tag = mirror_path(name)
        return (self._blobs / f"docker/registry/v2/repositories/{path}/_manifests/tags/{tag}/current/link").exists()

    def base(self, progress: Progress) -> str:
        recipe = hashlib.sha256(repr((SUITE, BASE_OPTIONS, BASE_DOCKERFILE)).encode()).hexdigest()
        name = f"{BASE}-{recipe[:12]}"
        if not self.has(name):
            self._start(progress)
        if not self.has(name):  # nor made by another process while we waited for it
            with progress.step(f"image {name}"), tempfile.TemporaryDirectory() as context:
                tree = Path(context, "root.tar")
                stream([*APART, "mmdebstrap", *BASE_OPTIONS, SUITE, str(tree), *mirrors(SUITE)], "mmdebstrap", progress)
                Path(context, "Dockerfile").write_text(BASE_DOCKERFILE)
                self._buildah(progress, "bud", "--tag", name, context)
                self._push(progress, name, BASE)  # under its usual name too, for manifests that name it
                self._push(progress, name, name)
        return name

    def build(self, image: Image, context: Path, arguments: Mapping[str, str], progress: Progress) -> None:
        self._start(progress)
        if self.has(image.name):  # made by another process while we waited for it
            return
        for base in image.bases.values():
            self._pull(base, progress)
        given = [f"--build-arg={key}={value}" for key, value in {**arguments, **image.bases}.items()]
        mounts = [f"--volume={file}:{file}:ro" for file in HOST_FILES if Path(file).is_file()]
        self._buildah(
            progress, "bud", "--isolation=chroot", "--pull-never", "--layers", "--format=oci", *given, *mounts,
            "--tag", image.name, str(context),
        )  # fmt: skip
        self._push(progress, image.name, image.name)

    def deliver(self, names: Iterable[str], progress: Progress) -> None:
        """Nodes pull from the registry."""

    def _start(self, progress: Progress) -> None:
        """Takes the lock and starts the registry, once."""
        if self._address:
            return
        if os.geteuid() != 0:
            raise Unavailable("building images without Docker needs root")
        require(IMAGES, progress)
        for folder in (self._blobs, self.folder / "containers", CONTAINERS):
            folder.mkdir(parents=True, exist_ok=True)
        self._open.enter_context(cache.lock("images", progress))
        # Locks and mount counts of this run only; what they count ends with it.
        self._runroot = self._open.enter_context(tempfile.TemporaryDirectory(prefix="moorage-buildah-"))
        self._address = self._open.enter_context(_Registry(self._registry, self._blobs, Path(self._runroot))).address
        self._try("rm", "--all")  # what a killed build was working in

    def _command(self, *arguments: str) -> list[str]:
        options = ["--runroot", self._runroot, "--storage-driver", "overlay"]
        return [*APART, *OURS, str(self.folder / "containers"), "buildah", *options, *arguments]

    def _buildah(self, progress: Progress, *arguments: str) -> None:
        stream(self._command(*arguments), "buildah", progress)

    def _try(self, *arguments: str) -> bool:
        return subprocess.run(self._command(*arguments), capture_output=True).returncode == 0

    def _pull(self, name: str, progress: Progress) -> None:
        """A base may have left our own storage while the registry still has it."""
        if not self._try("inspect", "--type", "image", name):
            path, tag = mirror_path(name)
            local = f"{self._address}/{path}:{tag}"
            self._buildah(progress, "pull", "--quiet", "--tls-verify=false", f"docker://{local}")
            self._buildah(progress, "tag", local, name)

    def _push(self, progress: Progress, name: str, target: str) -> None:
        path, tag = mirror_path(target)
        self._buildah(
            progress, "push", "--quiet", "--tls-verify=false", "--format=oci",
            "--compression-format=zstd", "--compression-level=1", name, f"docker://{self._address}/{path}:{tag}",
        )  # fmt: skip


class _Registry:
    """A registry on a free port of the loopback over the folder that the nodes' registry serves too."""

    def __init__(self, binary: Path, blobs: Path, folder: Path) -> None:
        self.address = f"127.0.0.1:{free_port(PORT)}"
        self._binary, self._config, self._log = binary, folder / "registry.json", folder / "registry.log"
        self._config.write_text(
            json.dumps(
                {
                    "version": 0.1,
                    "log": {"level": "warn", "accesslog": {"disabled": True}},
                    "storage": {"filesystem": {"rootdirectory": str(blobs)}},
                    "http": {"addr": self.address},
                }
            )
        )

    def __enter__(self) -> Self:
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [*TIED, str(self._binary), "serve", str(self._config)],
                stdout=log, stderr=log, env={**os.environ, "OTEL_TRACES_EXPORTER": "none"},
            )  # fmt: skip
        deadline = time.monotonic() + 15
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"http://{self.address}/v2/", timeout=1).close()
                return self
            except (urllib.error.URLError, OSError):
                time.sleep(0.02)
        self.__exit__()
        raise ClusterError(f"the image registry did not start:\n{self._log.read_text().strip()}")

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def free_port(preferred: int) -> int:
    for port in (preferred, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the registry itself does
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise ClusterError("no port is free on 127.0.0.1")


def mirror_path(name: str) -> tuple[str, str]:
    """Path and tag under which a mirror of all registries serves an image: without the registry's own name."""
    path, _, tag = name.rpartition(":") if ":" in name.rsplit("/", 1)[-1] else (name, "", "latest")
    host, _, rest = path.partition("/")
    if not rest:
        return f"library/{path}", tag
    return (rest if "." in host or ":" in host or host == "localhost" else path), tag


def mirrors(suite: str) -> list[str]:
    """Where this machine takes the suite's packages from; empty for mmdebstrap's own choice."""
    targets = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"],
        capture_output=True, text=True,
    )  # fmt: skip
    found = dict.fromkeys(targets.stdout.splitlines())
    return [
        f"deb {uri} {release} {component}"
        for uri, release, component in (line.split() for line in found)
        if release.split("-")[0] == suite and component == "main" and "debian" in uri
    ]
