"""A uri as something a pod can reach: a claim to mount, a key of a ConfigMap, or a store to copy from."""

from dataclasses import dataclass

from moorage.api.facts import InvalidSpec
from moorage.desired.meta import Manifest


@dataclass(frozen=True)
class Claim:
    name: str
    inside: str

    @property
    def root(self) -> str:
        # The whole claim, not a subPath: a missing folder is then the program's clear error, not the kubelet's, and a
        # rename inside the claim stays atomic.
        return f"/mnt/{self.name}"

    @property
    def path(self) -> str:
        return f"{self.root}/{self.inside}" if self.inside else self.root

    def volume(self, name: str) -> Manifest:
        return {"name": name, "persistentVolumeClaim": {"claimName": self.name}}

    def mount(self, volume: str, *, read_only: bool) -> Manifest:
        return {"name": volume, "mountPath": self.root, **({"readOnly": True} if read_only else {})}


@dataclass(frozen=True)
class ConfigMapKey:
    name: str
    key: str

    @property
    def path(self) -> str:
        return f"/etc/moorage/data/{self.key}"

    def volume(self, name: str) -> Manifest:
        # All keys: a missing one is then the program's clear error; the kubelet would only tell an event.
        return {"name": name, "configMap": {"name": self.name}}

    def mount(self, volume: str) -> Manifest:
        return {"name": volume, "mountPath": "/etc/moorage/data", "readOnly": True}


@dataclass(frozen=True)
class Remote:
    uri: str


def parse(uri: str) -> Claim | ConfigMapKey | Remote:
    scheme, separator, rest = uri.partition("://")
    if not separator or not rest:
        raise InvalidSpec(f"{uri!r} is no uri: write for example pvc://CLAIM/PATH or s3://BUCKET/KEY")
    first, _, inside = rest.partition("/")
    if ".." in inside.split("/"):
        raise InvalidSpec(f"{uri!r}: '..' is not allowed in a uri")
    if scheme == "pvc":
        return Claim(first, inside.strip("/"))
    if scheme == "configmap":
        if not inside:
            raise InvalidSpec(f"{uri!r}: write configmap://NAME/KEY")
        return ConfigMapKey(first, inside)
    if scheme in ("s3", "http", "https"):
        return Remote(uri)
    raise InvalidSpec(f"{uri!r}: {scheme}:// is not supported: write pvc://, s3://, http:// or https://")
