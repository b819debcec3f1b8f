"""S3 and HTTP behind one small face: list, stream from an offset, upload. All of it is obstore's work.

obstore signs, repeats requests with back-off and resumes a body that breaks off (given an ETag); here are its settings
and the translation of its errors into ours. The AWS_* variables are read by obstore itself.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from moorage_store import errors
from moorage_store.uri import Uri

if TYPE_CHECKING:
    from obstore import GetResult
    from obstore.store import ObjectStore

# A stuck peer is noticed by the read timeout; the time of a whole request has no bound, models are large.
CLIENT: dict[str, Any] = {"connect_timeout": "10s", "read_timeout": "60s", "timeout": "30days"}
RETRY: dict[str, Any] = {
    "max_retries": 6,  # some 15 seconds for what is refused at once; then the kubelet starts us again, and we resume
    "retry_timeout": timedelta(minutes=3),
    "backoff": {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=15), "base": 2},
}


@dataclass(frozen=True)
class Version:
    """Which content an object had; two that are equal and not `unknown` are the same bytes."""

    size: int
    e_tag: str | None
    last_modified: str | None

    @property
    def unknown(self) -> bool:
        return self.e_tag is None and self.last_modified is None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Remote:
    """The object at a URI, and for s3 those below it."""

    def __init__(self, uri: Uri) -> None:
        self.uri = uri
        try:
            import obstore  # noqa: F401
        except ModuleNotFoundError as error:
            words = f"{uri} needs the Python package obstore, which this image lacks: add `pip install obstore` to it"
            raise errors.Misconfigured(words) from error
        with self.errors():
            self._store = _s3(uri) if uri.scheme == "s3" else _http(uri)

    def objects(self) -> dict[str, Version] | None:
        """Objects of the folder by name relative to it, or None where the URI is one object."""
        if self.uri.scheme != "s3":
            return None
        import obstore

        prefix = self.uri.path + "/" if self.uri.path else ""
        with self.errors():
            found = {
                meta["path"].removeprefix(prefix): _version(meta)
                for page in obstore.list(self._store, prefix or None)
                for meta in page
            }
        return {name: version for name, version in found.items() if not name.endswith("/")} or None

    def readable(self) -> bool:
        """Whether the URI's own object can be read; keys that may not list often can."""
        try:
            self.open(None)
        except errors.StoreError:
            return False
        return True

    def open(self, name: str | None, offset: int = 0) -> tuple["GetResult", Version]:
        """Begins to read an object; `name` is below the URI, None the URI's own."""
        import obstore

        options: dict[str, Any] = {"range": {"offset": offset}} if offset else {}
        with self.errors():
            result = obstore.get(self._store, self._key(name), options=options)  # type: ignore[arg-type]
            return result, _version(result.meta)

    def upload(self, name: str, file: Any) -> None:
        import obstore

        with self.errors():
            obstore.put(self._store, self._key(name), file, chunk_size=16 * 2**20)

    def delete(self, names: list[str]) -> None:
        import obstore

        with self.errors():
            obstore.delete(self._store, [self._key(name) for name in names])

    def _key(self, name: str | None) -> str:
        if self.uri.scheme != "s3":
            return ""  # the store is opened at the whole URL, so that its query is kept
        return "/".join(part for part in (self.uri.path, name) if part)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """obstore's errors as ours. Also for reading a body: it breaks off in the iteration, not in the call."""
        from obstore import exceptions

        try:
            yield
        except FileNotFoundError as error:
            raise errors.NotFound(f"{self.uri} does not exist: {_words(error)}") from error
        except exceptions.BaseError as error:
            words, status = _words(error), _status(error)
            if status == 404:
                raise errors.NotFound(f"{self.uri} does not exist: {words}") from error
            if status in (401, 403):
                raise errors.AccessDenied(f"access to {self.uri} is denied: {words}. {_hint(self.uri)}") from error
            if "Content-Length Header missing" in words:
                raise errors.Corrupt(f"the server of {self.uri} does not say how long the file is") from error
            raise errors.Unreachable(f"{self.uri} cannot be reached: {words}") from error
        except ValueError as error:
            raise errors.Misconfigured(f"{self.uri}: {_words(error)}") from error


def _s3(uri: Uri) -> "ObjectStore":
    from obstore.store import S3Store

    endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
    # Who writes http:// means it; AWS_ALLOW_HTTP=false still forbids it.
    allow_http = endpoint.startswith("http://") and os.environ.get("AWS_ALLOW_HTTP", "true").lower() != "false"
    return S3Store(uri.host, client_options={**CLIENT, "allow_http": allow_http}, retry_config=RETRY)  # type: ignore[arg-type]


def _http(uri: Uri) -> "ObjectStore":
    from obstore.store import HTTPStore

    options = {**CLIENT, "allow_http": True}
    if token := os.environ.get("HTTP_BEARER_TOKEN"):
        options["default_headers"] = {"authorization": f"Bearer {token}"}
    return HTTPStore.from_url(uri.text, client_options=options, retry_config=RETRY)  # type: ignore[arg-type]


def _version(meta: Any) -> Version:
    modified = meta["last_modified"]
    # obstore gives the epoch where the server sent no time.
    return Version(meta["size"], meta.get("e_tag"), modified.isoformat() if modified.timestamp() else None)


def _status(error: Exception) -> int | None:
    """The HTTP status. obstore has exceptions for some of them, but not where it lists."""
    found = re.search(r"status(?: code)?: (\d{3})", str(error))
    return int(found[1]) if found else None


def _words(error: Exception) -> str:
    """What happened, out of obstore's message, S3's XML in it, and the cause that only its dump of the error has."""
    head, _, dump = str(error).partition("\n\nDebug source:")
    if xml := re.search(r"<Code>(.*?)</Code>\s*<Message>(.*?)</Message>", head, re.DOTALL):
        return f"{xml[1]}: {xml[2]}".rstrip(".")
    causes = re.findall(r'(?:message|error): "([^"]+)"', dump)
    head = re.sub(r"\s+", " ", head)
    # The URL is said already, and its query may be a signature.
    head = re.sub(r"Error performing [A-Z]+ \S+ in", "gave up after", head)
    head = re.sub(r"^Generic \w+ error: |, max_retries: \d+, retry_timeout: \w+ ", "", head)
    return head + (f": {causes[-1]}" if causes and causes[-1] not in head else "")


def _hint(uri: Uri) -> str:
    if uri.scheme == "s3":
        return (
            "The Secret of secretRef needs AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_ENDPOINT_URL); "
            "a folder also needs the permission s3:ListBucket"
        )
    return "The Secret of secretRef needs HTTP_BEARER_TOKEN"
