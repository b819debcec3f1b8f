"""The training data of this pod: mounted by the operator, or fetched into the pod's own scratch space."""

from pathlib import Path

from moorage_store import errors, fetch
from moorage_store import uri as uris
from moorage_trainer.settings import Settings


def prepare(settings: Settings, scratch: Path) -> Path | None:
    """File or folder with the data, None where the job has none. Raises StoreError."""
    if not settings.data_uri:
        return None
    if settings.data_path is not None:
        return _mounted(settings.data_uri, settings.data_path)
    uri = uris.parse(settings.data_uri)
    # The name is kept, since its ending says the format; an archive becomes a folder.
    dest = scratch / "data" / (uri.name.split(".")[0] if uri.is_archive else uri.name)
    fetch.fetch(settings.data_uri, dest)
    return dest


def _mounted(uri: str, path: Path) -> Path:
    if path.exists():
        return path
    parent = path.parent
    while not parent.is_dir():
        parent = parent.parent
    # A mounted ConfigMap keeps its content in folders whose names begin with dots.
    there = sorted(entry.name for entry in parent.iterdir() if not entry.name.startswith("."))
    holds = ", ".join(there[:10]) or "nothing"
    missing = path.relative_to(parent).parts[0]
    raise errors.NotFound(f"{uri} does not exist: there is no {missing} among what is there ({holds})")
