"""Builds images without Docker: Debian's buildah, pushing into a folder that the nodes' registry serves.

Pushes go through a registry process of our own on the loopback over that folder, so it does not matter whether a
cluster is up. Every tool runs in mount and process namespaces of its own: a build that is killed leaves neither.
"""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from cluster import cache
from cluster.images import BASE, Image
from cluster.interface import ClusterError, Unavailable
from cluster.progress import Progress

# Dies with us, also when we are killed.
TIED = ["setpriv", "--pdeathsig", "KILL"]
APART = [*TIED, "unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
TOOLS = ("buildah", "mmdebstrap", "setpriv", "unshare")
LAST_LINES = 30

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
            with progress.step(f"image {name}"), tempfile.TemporaryDirectory() as context:
                self._start(progress)
                tree = Path(context, "root.tar")
                self._run(["mmdebstrap", *BASE_OPTIONS, SUITE, str(tree), *mirrors(SUITE)], progress)
                Path(context, "Dockerfile").write_text(BASE_DOCKERFILE)
                self._buildah(progress, "bud", "--tag", name, context)
                self._push(progress, name, BASE)  # under its usual name too, for manifests that name it
                self._push(progress, name, name)
        return name

    def build(self, image: Image, context: Path, arguments: Mapping[str, str], progress: Progress) -> None:
        self._start(progress)
        if image.base:
            self._pull(image.base, progress)
            arguments = {**arguments, "BASE_IMAGE": image.base}
        given = [f"--build-arg={key}={value}" for key, value in arguments.items()]
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
        missing = [tool for tool in TOOLS if not shutil.which(tool)]
        if missing:
            raise Unavailable(
                f"building images without Docker needs {', '.join(missing)}: "
                "apt-get install --no-install-recommends buildah mmdebstrap util-linux"
            )
        if os.geteuid() != 0:
            raise Unavailable("building images without Docker needs root")
        self._blobs.mkdir(parents=True, exist_ok=True)
        self._open.enter_context(cache.lock("images", progress))
        # Locks and mount counts of this run only; what they count ends with it.
        self._runroot = self._open.enter_context(tempfile.TemporaryDirectory(prefix="moorage-buildah-"))
        self._address = self._open.enter_context(_Registry(self._registry, self._blobs, Path(self._runroot))).address
        subprocess.run([*APART, *self._command("rm", "--all")], capture_output=True, timeout=60)  # of a killed run

    def _command(self, *arguments: str) -> list[str]:
        where = ["--root", str(self.folder / "buildah"), "--runroot", self._runroot, "--storage-driver", "overlay"]
        return ["buildah", *where, *arguments]

    def _buildah(self, progress: Progress, *arguments: str) -> None:
        self._run(self._command(*arguments), progress)

    def _pull(self, name: str, progress: Progress) -> None:
        """A base may have left our own storage while the registry still has it."""
        known = subprocess.run([*APART, *self._command("inspect", "--type", "image", name)], capture_output=True)
        if known.returncode:
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

    def _run(self, command: list[str], progress: Progress) -> None:
        last: deque[str] = deque(maxlen=LAST_LINES)
        with subprocess.Popen([*APART, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            assert process.stdout is not None
            for line in map(str.strip, process.stdout):
                if line:
                    last.append(line)
                    progress.detail(line)
        if process.returncode:
            raise ClusterError(f"{command[0]} failed ({process.returncode}). Its last lines:\n" + "\n".join(last))


class _Registry:
    """A registry on a free port of the loopback over the folder that the nodes' registry serves too."""

    def __init__(self, binary: Path, blobs: Path, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
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
