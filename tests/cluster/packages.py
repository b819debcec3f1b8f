"""Debian packages that the native driver stands on, installed when they are missing."""

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cluster.commands import run
from cluster.interface import ClusterError
from cluster.progress import Progress


@dataclass(frozen=True)
class Package:
    debian: str
    probe: str  # a program or an absolute path that is there when the package is, however it was installed

    @property
    def present(self) -> bool:
        if self.probe.startswith("/"):
            return Path(self.probe).exists()
        return shutil.which(self.probe, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin") is not None


# The keyring is for hosts that are not Debian, such as Ubuntu: the base image is made of Debian's packages.
IMAGES = (
    Package("buildah", "buildah"),
    Package("mmdebstrap", "mmdebstrap"),
    Package("util-linux", "setpriv"),
    Package("debian-archive-keyring", "/usr/share/keyrings/debian-archive-keyring.gpg"),
)
NODE = (
    Package("containerd", "containerd"),
    Package("runc", "runc"),
    Package("containernetworking-plugins", "/usr/lib/cni/ptp"),
    Package("nftables", "nft"),
    Package("iproute2", "ip"),
    Package("util-linux", "nsenter"),
    Package("mount", "mount"),
    Package("procps", "sysctl"),
)


def require(packages: Iterable[Package], progress: Progress) -> None:
    missing = [package for package in packages if not package.present]
    if not missing:
        return
    names = [package.debian for package in missing]
    if not shutil.which("apt-get"):
        raise ClusterError(f"these programs are missing: {', '.join(p.probe for p in missing)}; install them")
    # Services that a package would start are the machine's business: apt honours its policy-rc.d.
    apt = {"DEBIAN_FRONTEND": "noninteractive"}
    with progress.step(f"installing {' '.join(names)}"):
        install = ("apt-get", "install", "-y", "-q", "--no-install-recommends", *names)
        try:
            run(*install, env=apt, timeout=600)
        except ClusterError:  # a fresh machine has no package lists, an old one has stale ones
            run("apt-get", "update", "-q", env=apt, timeout=300)
            run(*install, env=apt, timeout=600)
