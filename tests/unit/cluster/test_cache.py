"""The cache: keys say what went in, entries appear whole or not at all, one at a time."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import cache
from cluster.progress import Progress


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOORAGE_CACHE", str(tmp_path))
    return tmp_path


def quiet() -> Progress:
    return Progress(io.StringIO())


def test_the_key_is_of_the_contents_not_of_their_order() -> None:
    assert cache.key([("a", b"1"), ("b", b"2")]) == cache.key([("b", b"2"), ("a", b"1")])


def test_the_key_changes_with_any_name_or_content() -> None:
    keys = [
        cache.key([("a", b"1"), ("b", b"2")]),
        cache.key([("a", b"1"), ("b", b"3")]),
        cache.key([("a", b"1"), ("c", b"2")]),
        cache.key([("a", b"1")]),
        cache.key([("a", b"1b"), ("", b"2")]),  # the same bytes, cut elsewhere
    ]
    assert len(set(keys)) == len(keys)


def test_an_entry_is_made_once() -> None:
    made: list[Path] = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "file").write_text("content")

    first = cache.publish("kind", "name", make, quiet())
    assert cache.publish("kind", "name", make, quiet()) == first
    assert (first / "file").read_text() == "content"
    assert len(made) == 1


def test_what_failed_half_way_is_not_an_entry(root: Path) -> None:
    def make(folder: Path) -> None:
        (folder / "half").write_text("")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        cache.publish("kind", "name", make, quiet())
    assert not cache.entry("kind", "name").exists()
    assert not any((root / "tmp").iterdir())


def test_what_a_killed_process_left_does_not_get_into_the_entry(root: Path) -> None:
    left = root / "tmp" / "kind-name"
    left.mkdir(parents=True)
    (left / "old").write_text("")
    entry = cache.publish("kind", "name", lambda folder: (folder / "new").touch(), quiet())
    assert [path.name for path in entry.iterdir()] == ["new"]


def test_a_second_process_waits_and_says_for_what(root: Path) -> None:
    holder = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"
    path = root / "locks" / "thing.lock"
    path.parent.mkdir()
    said = io.StringIO()
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin and process.stdout
        process.stdout.readline()
        # It is let go by its heartbeat: the first line that the waiting one prints.
        waiting = Progress(said, heartbeat=0.05)
        release = process.stdin

        class Releasing(io.StringIO):
            def write(self, text: str) -> int:
                if "waiting" in text and not release.closed:
                    release.close()
                return said.write(text)

        waiting = Progress(Releasing(), heartbeat=0.05)
        with cache.lock("thing", waiting):
            pass
    assert "waiting for another process that makes thing" in said.getvalue()


def test_what_nobody_has_used_for_long_is_removed_and_made_again(root: Path) -> None:
    def make(folder: Path) -> None:
        (folder / "file").write_text("content")

    old, fresh = (cache.publish("pypi", name, make, quiet()) for name in ("old", "fresh"))
    image = cache.entry("registry", "blobs")
    image.mkdir(parents=True)
    for path in (old, fresh, image):
        os.utime(path, (0, 0))
    cache.publish("pypi", "fresh", make, quiet())
    assert cache.prune(quiet()) == [old]
    assert fresh.exists() and image.exists() and not old.exists()
    assert (cache.publish("pypi", "old", make, quiet()) / "file").exists()
    assert [path.name for path in (root / "tmp").iterdir()] == []


def test_who_waits_for_what_another_makes_goes_on_as_soon_as_it_is_there() -> None:
    looked = iter([False, False, True])
    with cache.lock("build", quiet()), cache.lock("build", quiet(), unless=lambda: next(looked)):
        pass
