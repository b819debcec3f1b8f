"""Which images a cluster needs and out of what: everything that goes into an image decides its tag.

So whether one must be built is a look at what is there already, two checkouts with different code never disturb each
other, and a pod that names an image gets just that code. How images are built and how they reach the nodes is the
business of a `Builder`: `buildah.py` without Docker, `docker.py` with it.
"""

import hashlib
import os
import platform
import re
import shutil
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

from cluster.commands import run
from cluster.interface import ClusterError
from cluster.names import CHECKOUT as ROOT
from cluster.progress import Progress
from moorage import __version__

REGISTRY = "ghcr.io/moorage"
BASE = "docker.io/library/python:3.11-slim-bookworm"
PYTHON = "cp311"  # the base image's; only wheels for it are of use
EXTRAS = ("server", "onnx", "trainer")  # what the torch image is made of
PACKAGES = ("moorage_server", "moorage_trainer", "moorage_store")

# Free space a build of torch needs for layers, registry and two nodes, generously.
ROOM_GB = {"cpu": 8, "cuda": 24}


@dataclass(frozen=True)
class Image:
    """An image to be. `files` maps each path in the build context to its content, read once, so that what was named is
    what gets built while somebody edits; or to a file that never changes (a wheel, a program in the cache)."""

    repository: str
    files: Mapping[str, bytes | Path]
    bases: Mapping[str, str] = field(default_factory=dict)  # build argument → the image it is built on

    @cached_property
    def name(self) -> str:
        digest = hashlib.sha256(f"{self.repository}\n{sorted(self.bases.items())}\n".encode())
        for path, content in sorted(self.files.items()):
            digest.update(f"{path}\n{fingerprint(content)}\n".encode())
        return f"{self.repository}:{digest.hexdigest()[:12]}"

    def assemble(self, folder: Path) -> None:
        """Writes the build context."""
        for path, content in self.files.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                shutil.copy(content, target)
            else:
                target.write_bytes(content)


class Builder(Protocol):
    """Builds images and brings them to where the nodes find them."""

    @property
    def folder(self) -> Path | None:
        """Where it works, if that is known."""

    def base(self, progress: Progress) -> str:
        """The name of the Python image that others are built on; made first where it cannot be pulled."""

    def has(self, name: str) -> bool: ...

    def build(self, image: Image, context: Path, arguments: Mapping[str, str], progress: Progress) -> None: ...

    def deliver(self, names: Iterable[str], progress: Progress) -> None:
        """Brings built images to the nodes, where a build alone does not."""


def fingerprint(content: bytes | Path) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    if content.suffix == ".whl":  # large, and its name and size tell it from any other
        return f"{content.name} {content.stat().st_size}"
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def package(target: str, folder: Path) -> dict[str, bytes]:
    """A Python package's files, without what Python leaves behind."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    return {f"{target}/{file.relative_to(folder).as_posix()}": file.read_bytes() for file in files}


def project_images(progress: Progress, builder: Builder) -> dict[str, str]:
    """Builds what is missing of the operator's, torch's and Triton's image; their names by these keys."""
    wheel = torch_wheel(os.environ.get("PIP_FIND_LINKS", ""), locked("torch"))
    base = builder.base(progress)
    torch = torch_image(base, wheel)
    if builder.folder and not builder.has(torch.name):
        need_room(builder.folder, wheel)
    images = {"operator": operator_image(base), "torch": torch, "triton": triton_image(base, torch.name)}
    return ensure(images, progress, builder)


def system_images(progress: Progress, builder: Builder, binaries: Mapping[str, Path]) -> dict[str, str]:
    """Images that hold one Go binary and nothing else; their names by the binaries' keys."""
    images = {
        key: Image(
            f"{REGISTRY}/cluster/{key}",
            {"Dockerfile": f'FROM scratch\nCOPY {key} /{key}\nENTRYPOINT ["/{key}"]\n'.encode(), key: binary},
        )
        for key, binary in binaries.items()
    }
    return ensure(images, progress, builder)


def ensure(images: Mapping[str, Image], progress: Progress, builder: Builder) -> dict[str, str]:
    names = {key: image.name for key, image in images.items()}
    for key, image in images.items():
        if not builder.has(names[key]):
            with progress.step(f"image {names[key]}"), tempfile.TemporaryDirectory() as context:
                image.assemble(Path(context))
                builder.build(image, Path(context), provenance(), progress)
    builder.deliver(names.values(), progress)
    return names


def operator_image(base: str) -> Image:
    files = {
        "Dockerfile": (ROOT / "images/operator/Dockerfile").read_bytes(),
        "requirements.txt": exported().encode(),
        **package("moorage", ROOT / "operator/moorage"),
    }
    return Image(f"{REGISTRY}/operator", files, {"BASE_IMAGE": base})


def torch_image(base: str, wheel: Path | None) -> Image:
    constraints = exported("--no-hashes", *flags("--extra", EXTRAS))
    version = wheel.name.split("-")[1] if wheel else locked("torch")  # the wheel's has a +cpu
    rest = exported(*flags("--extra", EXTRAS), *flags("--prune", [*operator_only(), "torch"]))
    files: dict[str, bytes | Path] = {
        "Dockerfile": (ROOT / "images/torch/Dockerfile").read_bytes(),
        "requirements-torch.txt": f"torch=={version}\n".encode(),
        "constraints.txt": constraints.encode(),
        "requirements.txt": rest.encode(),
        "wheels/.keep": b"",
    }
    if wheel:
        files[f"wheels/{wheel.name}"] = wheel
    for name in PACKAGES:
        files |= package(f"packages/{name}", ROOT / "images/torch" / name)
    return Image(f"{REGISTRY}/torch", files, {"BASE_IMAGE": base})


def triton_image(base: str, torch: str) -> Image:
    files = {"Dockerfile": (ROOT / "images/triton/Dockerfile").read_bytes()}
    return Image(f"{REGISTRY}/triton", files, {"PYTHON_IMAGE": base, "BASE_IMAGE": torch})


def torch_wheel(find_links: str, version: str) -> Path | None:
    """The wheel of torch that a folder named by PIP_FIND_LINKS holds for this machine and the image's Python."""
    for folder in map(Path, find_links.split()):
        for wheel in sorted(folder.glob(f"torch-{version}*-{PYTHON}-*{platform.machine()}.whl")):
            return wheel.resolve()
    return None


def locked(name: str) -> str:
    """The version of a package in our lock file; found by its two lines, as reading all of it takes 0.3 s."""
    found = re.search(rf'^name = "{name}"\nversion = "(.+)"$', (ROOT / "uv.lock").read_text(), re.MULTILINE)
    if not found:
        raise ClusterError(f"uv.lock has no {name}: run `uv lock`")
    return found[1]


def operator_only() -> list[str]:
    """Dependencies of the project that neither the server nor the trainer asks for."""

    def names(requirements: Iterable[str]) -> set[str]:
        return {name for requirement in requirements for name in re.findall(r"^[\w.-]+", requirement)}

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = names(line for extra in EXTRAS for line in project["optional-dependencies"][extra])
    return sorted(names(project["dependencies"]) - wanted)


def flags(flag: str, values: Iterable[str]) -> list[str]:
    return [word for value in values for word in (flag, value)]


def exported(*options: str) -> str:
    """Requirements out of our lock file."""
    plain = ("--no-emit-project", "--no-header", "--no-annotate", "--no-dev")
    return run(uv(), "--directory", ROOT, "export", "--quiet", "--frozen", *plain, *options)


def uv() -> str:
    for candidate in (os.environ.get("UV"), shutil.which("uv"), ROOT / ".tools/bin/uv"):
        if candidate and os.access(ROOT / candidate, os.X_OK):
            return str(ROOT / candidate)
    raise ClusterError("uv is missing: `make .tools/bin/uv` installs it, or name it with UV=/path/to/uv")


def provenance() -> dict[str, str]:
    """Build arguments that tell of an image's origin. They are no input: a commit alone makes no new image."""
    revision = "unknown"
    with suppress(ClusterError):  # no git, or no repository: a source archive
        revision = run("git", "-C", ROOT, "rev-parse", "HEAD").strip()
    return {"VERSION": __version__, "REVISION": revision}


def need_room(folder: Path, wheel: Path | None) -> None:
    """Fails early with what to do, where a build would fail late with a full disk."""
    need, free = ROOM_GB["cpu" if wheel else "cuda"], shutil.disk_usage(folder).free / 1e9
    if free < need:
        raise ClusterError(
            f"{folder} has {free:.0f} GB free, and an image with {'the CPU build of' if wheel else 'CUDA and'} torch "
            f"needs about {need} GB: free some, or put the cache elsewhere with MOORAGE_CACHE=/path"
            + ("" if wheel else ", or name a folder with torch's CPU wheel in PIP_FIND_LINKS (8 GB)")
        )
