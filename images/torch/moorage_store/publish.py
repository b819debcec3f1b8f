"""The result of a training appears under its URI in one step, and never takes the place of something else.

pvc: the program writes into a hidden folder beside the target; it is flushed to disk and exchanged with the target by
rename, so a reader finds the old model or the new one. s3 has no such step: every object is replaced whole, the model's
description first (half an upload is known as a model by it) and its own file last, and what an earlier result had
beside them is deleted. There is no manifest object, because then the folder would have another digest than the one that
was reported; readers that must not see a mixture ask for the digest.
"""

import ctypes
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from moorage_store import uri as uris
from moorage_store.digest import files_of
from moorage_store.errors import AccessDenied, Misconfigured, NotFound, NotWritable, StoreError
from moorage_store.fetch import remove
from moorage_store.formats import FILES, FOLDERS
from moorage_store.progress import Progress
from moorage_store.remote import Remote

# What makes a folder a model; only such a folder is replaced. A model.py or weights alone may be somebody's work.
DESCRIPTION = "moorage.yaml"
MODEL_FILES = {DESCRIPTION, *(file for form, file in FILES.items() if form not in FOLDERS)}

# A work folder untouched for so long belongs to nobody any more. A younger one may be that of a worker that still ends.
STALE_SECONDS = 24 * 3600


class Output:
    """Where a training's result goes."""

    def __init__(self, uri: str, mount: Path | None, job: str) -> None:
        self.uri, self.mount = uris.parse(uri), mount
        if not self.uri.path:
            raise Misconfigured(f"the output {uri} needs a path of its own, such as {uri.rstrip('/')}/digits/1")
        if self.uri.scheme == "pvc":
            if mount is None:
                raise Misconfigured(f"MOORAGE_OUTPUT_MOUNT must say where {uri} is mounted")
            self._stem = f".{mount.name}.{job}"
            # Its own for every attempt: one that is slow to end must not remove the next one's.
            self.folder = mount.parent / f"{self._stem}.{secrets.token_hex(4)}"
        elif self.uri.scheme == "s3":
            self.folder = Path(tempfile.gettempdir()) / f"moorage-output-{job}-{secrets.token_hex(4)}"
        else:
            raise Misconfigured(f"the output cannot be written to {uri}: write pvc://CLAIM/PATH or s3://BUCKET/KEY")

    def prepare(self) -> Path:
        """An empty folder to write into, or a clear word now rather than after hours of training."""
        try:
            self.folder.mkdir(parents=True)
            self._remove_stale()
        except OSError as error:
            raise NotWritable(f"the output {self.uri} cannot be written: {error}") from error
        self._refuse_to_replace_others()
        return self.folder

    def publish(self) -> None:
        files = files_of(self.folder)
        if not files:
            raise NotWritable(f"nothing was written into the output folder ($MOORAGE_OUTPUT_DIR), so {self.uri} stays")
        self._refuse_to_replace_others()
        if self.mount is None:
            self._upload(sorted(str(file.relative_to(self.folder)) for file in files))
        else:
            try:
                _swap(self.folder, self.mount)
            except OSError as error:
                raise NotWritable(f"the output {self.uri} cannot be written: {error}") from error

    def discard(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _remove_stale(self) -> None:
        """What killed attempts left, but not the only copy of a model."""
        if self.mount is None:
            return
        left = re.compile(re.escape(self._stem) + r"\.[0-9a-f]{8}(\.old)?")
        for path in self.mount.parent.iterdir():
            if path == self.folder or not left.fullmatch(path.name):
                continue
            if path.suffix == ".old" and not self.mount.exists():
                continue
            with suppress(FileNotFoundError):  # its owner was quicker
                newest = max(entry.lstat().st_mtime for entry in [path, *path.rglob("*")])
                if time.time() - newest > STALE_SECONDS:
                    remove(path)

    def _refuse_to_replace_others(self) -> None:
        if self.mount is not None:
            there = [path.name for path in self.mount.iterdir()] if self.mount.is_dir() else []
            if self.mount.exists() and not self.mount.is_dir():
                there = [self.mount.name]
        else:
            with self._not_writable():
                there = sorted({name.split("/")[0] for name in self._remote().objects() or {}})
        if there and not any(name in MODEL_FILES for name in there):
            some = ", ".join(sorted(there)[:5])
            raise NotWritable(f"the output {self.uri} exists and is no model (it holds {some}): give a path of its own")

    def _upload(self, names: list[str]) -> None:
        with self._not_writable():
            remote = self._remote()
            before = remote.objects() or {}
            try:
                self._upload_to(remote, names)
            except BaseException:
                if not before:  # half a result would be in the way of the next attempt
                    with suppress(StoreError):
                        remote.delete(sorted(set(remote.objects() or {}) & set(names)))
                raise
            if stale := sorted((remote.objects() or {}).keys() - set(names)):
                remote.delete(stale)

    def _upload_to(self, remote: Remote, names: list[str]) -> None:
        total = sum((self.folder / name).stat().st_size for name in names)
        progress = Progress(f"uploading to {self.uri}")
        progress.begin(total)
        for name in sorted(names, key=lambda name: (name != DESCRIPTION, name in MODEL_FILES, name)):
            remote.upload(name, self.folder / name)
            progress.add((self.folder / name).stat().st_size)
        progress.finish()

    @contextmanager
    def _not_writable(self) -> Iterator[None]:
        try:
            yield
        except NotFound as error:
            words = f"the output {self.uri} cannot be written: {error}. Create the bucket {self.uri.host} first"
            raise NotWritable(words) from error
        except AccessDenied as error:
            raise NotWritable(f"the output {self.uri} cannot be written: {error}") from error

    def _remote(self) -> Remote:
        return Remote(self.uri)


def _swap(new: Path, target: Path) -> None:
    for path in [*new.rglob("*"), new]:
        _flush(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        new.rename(target)
    elif _exchange(new, target):
        remove(new)  # the earlier result
    else:
        old = new.with_name(new.name + ".old")
        remove(old)
        target.rename(old)
        try:
            new.rename(target)
        except OSError:
            old.rename(target)
            raise
        remove(old)
    _flush(target.parent)


def _exchange(one: Path, other: Path) -> bool:
    """renameat2(RENAME_EXCHANGE): both change names at once. False where the file system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    here, flag = -100, 2
    return bool(rename(here, os.fsencode(one), here, os.fsencode(other), flag) == 0)


def _flush(path: Path) -> None:
    if path.is_symlink():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
