"""Our digest of a folder is the one a shell gives: anyone can check it without our code."""

import subprocess
from pathlib import Path

from moorage_store.digest import sha256_of, size_of

# As in docs/contracts.md.
BY_SHELL = r"cd %s && find . -type f -printf '%%P\n' | LC_ALL=C sort | xargs -d '\n' sha256sum | sha256sum"


def test_file(tmp_path: Path) -> None:
    file = tmp_path / "model.pt2"
    file.write_bytes(b"weights")
    expected = subprocess.run(["sha256sum", file], capture_output=True, text=True, check=True).stdout.split()[0]
    assert sha256_of(file) == expected
    assert size_of(file) == 7


def test_folder_is_digested_as_the_documented_shell_line_does(tmp_path: Path) -> None:
    # Names where sorting by path parts, by locale or by characters would each give another order.
    for name in ("b/z", "b-a", "B", "a.b", "a/b", "é", "a b", "z/y/x"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("B")
    by_shell = subprocess.run(["sh", "-c", BY_SHELL % tmp_path], capture_output=True, text=True, check=True)
    assert sha256_of(tmp_path) == by_shell.stdout.split()[0]
    assert size_of(tmp_path) == len("b/zb-aBa.ba/béa bz/y/x".encode())


def test_digest_changes_with_content_and_with_names(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    first = sha256_of(tmp_path)
    (tmp_path / "a").write_text("2")
    second = sha256_of(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert len({first, second, sha256_of(tmp_path)}) == 3
