"""The URIs of `docs/contracts.md`, taken apart and checked. What is behind them is for `remote` and `fetch`."""

from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from moorage_store.errors import Misconfigured

SCHEMES = ("pvc", "configmap", "s3", "http", "https")
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")
FORMS = "pvc://CLAIM/PATH, s3://BUCKET/KEY, http(s)://HOST/PATH or, for training data, configmap://NAME/KEY"


@dataclass(frozen=True)
class Uri:
    text: str
    scheme: str
    host: str  # claim, bucket, ConfigMap or host
    path: str  # without the leading slash

    @property
    def name(self) -> str:
        """What to call the file or folder locally: the last part of the path, else of the host."""
        return PurePosixPath(self.path).name or self.host.replace(":", "-")

    @property
    def is_mounted(self) -> bool:
        return self.scheme in ("pvc", "configmap")

    @property
    def is_archive(self) -> bool:
        return not self.is_mounted and self.path.lower().endswith(ARCHIVES)

    def __str__(self) -> str:
        # A query can carry a signature, and what is printed ends in logs and in status.
        return self.text.split("?")[0]


def parse(text: str) -> Uri:
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise Misconfigured(f"{text!r} is no URI: {error}") from error
    if parts.scheme not in SCHEMES or not parts.netloc:
        raise Misconfigured(f"{text!r} is not a URI that can be read; write {FORMS}")
    if "@" in parts.netloc:
        raise Misconfigured(f"{parts.scheme}:// with a password in it would end in logs: put credentials into a Secret")
    path = unquote(parts.path).strip("/")
    if ".." in PurePosixPath(path).parts:
        raise Misconfigured(f"{text!r} has '..' in its path: write the path itself")
    return Uri(text, parts.scheme, parts.netloc, path)
