"""Fetching from an HTTP server: whole, in pieces, changed on the way, refused."""

import hashlib
import os
from pathlib import Path

import pytest

from moorage_store import errors
from moorage_store.fetch import fetch

from .conftest import Site

BODY = os.urandom(5_000_000)
DIGEST = hashlib.sha256(BODY).hexdigest()


def leftovers(dest: Path) -> list[str]:
    return sorted(path.name for path in dest.parent.iterdir() if path != dest)


def test_a_file_arrives_and_nothing_else_is_left(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site.files["/models/a.pt2"] = BODY
    dest = tmp_path / "deep" / "a.pt2"
    fetch(site.url("/models/a.pt2"), dest, DIGEST)
    assert dest.read_bytes() == BODY
    assert leftovers(dest) == []
    assert "5.0 MB in" in capsys.readouterr().out


def test_the_query_is_sent_but_not_printed(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site.files["/a%20b?signature=s3cret"] = b"content"
    fetch(site.url("/a%20b?signature=s3cret"), tmp_path / "a")
    with pytest.raises(errors.NotFound) as missing:
        fetch(site.url("/absent?signature=s3cret"), tmp_path / "b")
    assert "s3cret" not in capsys.readouterr().out + str(missing.value)


def test_a_connection_cut_midway_is_resumed(site: Site, tmp_path: Path) -> None:
    site.files["/a"] = BODY
    site.cut_after, site.cuts_left = 1_500_000, 2
    fetch(site.url("/a"), tmp_path / "a", DIGEST)
    assert (tmp_path / "a").read_bytes() == BODY
    assert site.ranges_asked == [None, "bytes=1500000-4999999", "bytes=3000000-4999999"]


@pytest.mark.parametrize("etags", [True, False])
def test_a_later_try_goes_on_where_the_first_stopped(
    site: Site, tmp_path: Path, etags: bool, impatient: None, capsys: pytest.CaptureFixture[str]
) -> None:
    site.files["/a"] = BODY
    site.etags = etags
    site.cut_after = 2_000_000
    with pytest.raises(errors.Unreachable):
        fetch(site.url("/a"), tmp_path / "a", DIGEST)
    kept = (tmp_path / "a.part").stat().st_size
    assert kept >= 1_000_000
    site.cut_after = None
    site.requests.clear()
    fetch(site.url("/a"), tmp_path / "a", DIGEST)
    assert (tmp_path / "a").read_bytes() == BODY
    # Without any name for the version the halves might belong to two contents.
    assert (f"bytes={kept}-" in site.ranges_asked) is etags
    assert ("going on" in capsys.readouterr().out) is etags


def test_a_changed_object_starts_anew(site: Site, tmp_path: Path, impatient: None) -> None:
    site.files["/a"] = os.urandom(5_000_000)
    site.cut_after = 2_000_000
    with pytest.raises(errors.Unreachable):
        fetch(site.url("/a"), tmp_path / "a", DIGEST)
    site.files["/a"] = BODY
    site.cut_after = None
    fetch(site.url("/a"), tmp_path / "a", DIGEST)
    assert (tmp_path / "a").read_bytes() == BODY


def test_a_server_without_ranges_starts_anew(site: Site, tmp_path: Path, impatient: None) -> None:
    site.files["/a"] = BODY
    site.ranges, site.cut_after = False, 2_000_000
    with pytest.raises(errors.Unreachable):
        fetch(site.url("/a"), tmp_path / "a", DIGEST)
    site.cut_after = None
    fetch(site.url("/a"), tmp_path / "a", DIGEST)
    assert (tmp_path / "a").read_bytes() == BODY


def test_a_complete_part_is_not_fetched_again(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.files["/a"] = BODY
    with monkeypatch.context() as patch:
        patch.setattr("moorage_store.fetch.verify", killed)
        with pytest.raises(KeyboardInterrupt):
            fetch(site.url("/a"), tmp_path / "a", DIGEST)
    assert leftovers(tmp_path / "a") == ["a.part", "a.part.json"]
    site.requests.clear()
    fetch(site.url("/a"), tmp_path / "a", DIGEST)
    assert site.ranges_asked == [None]
    assert leftovers(tmp_path / "a") == []


def killed(*_: object) -> None:
    """Stands for a process that ends between the last byte and the rename."""
    raise KeyboardInterrupt


def test_wrong_content_is_refused_and_forgotten(site: Site, tmp_path: Path) -> None:
    site.files["/a"] = b"something else"
    with pytest.raises(errors.DigestMismatch) as mismatch:
        fetch(site.url("/a"), tmp_path / "a", DIGEST)
    assert DIGEST in str(mismatch.value)
    assert hashlib.sha256(b"something else").hexdigest() in str(mismatch.value)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_already(site: Site, tmp_path: Path) -> None:
    site.files["/a"] = BODY
    dest = tmp_path / "a"
    dest.write_bytes(b"damaged")
    with pytest.raises(errors.Misconfigured, match="--allow-existing"):
        fetch(site.url("/a"), dest, DIGEST)
    fetch(site.url("/a"), dest, DIGEST, allow_existing=True)
    assert dest.read_bytes() == BODY
    site.requests.clear()
    fetch(site.url("/a"), dest, DIGEST, allow_existing=True)
    assert site.requests == []


def test_missing_and_forbidden(site: Site, tmp_path: Path, impatient: None) -> None:
    with pytest.raises(errors.NotFound, match="/absent does not exist"):
        fetch(site.url("/absent"), tmp_path / "a")
    for status in (401, 403):
        site.status = status
        with pytest.raises(errors.AccessDenied, match="HTTP_BEARER_TOKEN"):
            fetch(site.url("/a"), tmp_path / "a")
    site.status = 503
    with pytest.raises(errors.Unreachable, match="503"):
        fetch(site.url("/a"), tmp_path / "a")
    # A server that fails for a moment is asked again.
    assert len([path for path, _ in site.requests if path == "/a"]) == 4


def test_unreachable_server_says_why(tmp_path: Path, impatient: None) -> None:
    with pytest.raises(errors.Unreachable, match=r"nowhere\.invalid/a\.tgz cannot be reached: .*Name or service"):
        fetch("http://nowhere.invalid/a.tgz", tmp_path / "a")
    with pytest.raises(errors.Unreachable, match=r"(?i)refused"):
        fetch("http://127.0.0.1:1/a", tmp_path / "a")


@pytest.mark.parametrize(("host", "token"), [("127.0.0.1", "Bearer abc"), ("localhost", None)])
def test_a_redirect_to_another_host_does_not_get_the_token(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, token: str | None
) -> None:
    monkeypatch.setenv("HTTP_BEARER_TOKEN", "abc")
    site.files["/real"] = b"content"
    site.redirects["/begin"] = f"http://{host}:{site.port}/real"
    fetch(site.url("/begin"), tmp_path / "a")
    assert [headers.get("authorization") for _, headers in site.requests] == ["Bearer abc", token]
