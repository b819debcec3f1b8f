"""A real S3 server: objects, folders, publishing, and being refused."""

import os
from pathlib import Path

import obstore
import pytest
from obstore import exceptions

from moorage_store import errors
from moorage_store.digest import sha256_of
from moorage_store.download import Journal
from moorage_store.fetch import fetch
from moorage_store.publish import Output
from moorage_store.remote import Remote

BIG = os.urandom(20_000_000)  # more than one part of a multipart upload


def published(uri: str, files: dict[str, bytes]) -> str:
    output = Output(uri, None, "job-1")
    folder = output.prepare()
    for name, body in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(body)
    digest = sha256_of(folder)
    output.publish()
    output.discard()
    return digest


def test_what_is_published_comes_back_with_the_same_digest(s3_server: Path, tmp_path: Path) -> None:
    digest = published("s3://models/digits/1", {"model.pt2": BIG, "moorage.yaml": b"{}", "sub/ü b": b"1"})
    fetch("s3://models/digits/1", tmp_path / "model", digest)
    assert sha256_of(tmp_path / "model") == digest
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]


def test_a_single_object(s3_server: Path, tmp_path: Path) -> None:
    (s3_server / "models" / "alone.pt2").write_bytes(BIG)
    fetch("s3://models/alone.pt2", tmp_path / "model.pt2")
    assert (tmp_path / "model.pt2").read_bytes() == BIG


def test_publishing_again_replaces_all_of_the_earlier_result(s3_server: Path, tmp_path: Path) -> None:
    published("s3://models/again/1", {"model.pt2": b"old", "sub/extra": b"old"})
    digest = published("s3://models/again/1", {"model.pt2": b"new"})
    fetch("s3://models/again/1", tmp_path / "model", digest)


def test_a_folder_that_holds_other_things_is_left_alone(s3_server: Path) -> None:
    published("s3://models/versions/1", {"model.pt2": b"1"})
    with pytest.raises(errors.NotWritable, match=r"is no model \(it holds 1\)"):
        published("s3://models/versions", {"model.pt2": b"2"})
    assert (s3_server / "models" / "versions" / "1" / "model.pt2").read_bytes() == b"1"


def test_a_folder_goes_on_where_it_stopped(
    s3_server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = published("s3://models/resume/1", {f"{i}": bytes([i]) * 1_000_000 for i in range(5)})
    with monkeypatch.context() as patch:
        patch.setattr("moorage_store.fetch.verify", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fetch("s3://models/resume/1", tmp_path / "model")
    part = tmp_path / "model.part"
    (part / "1").unlink()
    with (part / "2").open("r+b") as file:
        file.truncate(400_000)
    (part / "stale").write_bytes(b"of an object that is no more")
    fetch("s3://models/resume/1", tmp_path / "model", digest)
    assert "68% of 5.0 MB, going on" in capsys.readouterr().out


def test_what_is_not_there_is_said(s3_server: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound, match="s3://models/absent does not exist"):
        fetch("s3://models/absent", tmp_path / "a")
    with pytest.raises(errors.NotFound, match="s3://no-such-bucket/x does not exist"):
        fetch("s3://no-such-bucket/x", tmp_path / "a")


def test_wrong_keys_are_named(s3_server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(errors.AccessDenied, match="AWS_SECRET_ACCESS_KEY"):
        fetch("s3://models/digits/1", tmp_path / "a")
    with pytest.raises(errors.NotWritable, match="AWS_SECRET_ACCESS_KEY"):
        Output("s3://models/denied/1", None, "job").prepare()


def test_http_endpoint_can_be_forbidden(
    s3_server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, impatient: None
) -> None:
    monkeypatch.setenv("AWS_ALLOW_HTTP", "false")
    with pytest.raises(errors.StoreError):
        fetch("s3://models/digits/1", tmp_path / "a")


def test_a_store_that_is_down_is_worth_another_try(
    s3_server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, impatient: None
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(errors.Unreachable, match=r"(?i)refused") as down:
        fetch("s3://models/digits/1", tmp_path / "a")
    assert down.value.code == 75


def test_an_output_in_no_bucket_is_not_writable(s3_server: Path) -> None:
    with pytest.raises(errors.NotWritable, match="Create the bucket no-such-bucket first"):
        Output("s3://no-such-bucket/x", None, "job").prepare()


@pytest.mark.parametrize("broken", ["model.pt2", "readme.txt"])
def test_a_broken_upload_can_be_tried_again(s3_server: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    files = {"model.pt2": b"1", "readme.txt": b"2", "a": b"3"}
    upload, sent = Remote.upload, []

    def fail(self: Remote, name: str, file: Path) -> None:
        sent.append(name)
        if name == broken:
            raise errors.Unreachable("gone")
        upload(self, name, file)

    uri = f"s3://models/broken-{broken}/1"
    with monkeypatch.context() as patch:
        patch.setattr(Remote, "upload", fail)
        with pytest.raises(errors.Unreachable):
            published(uri, files)
    assert sent == ["a", "readme.txt", "model.pt2"][: len(sent)]
    published(uri, files)


def test_the_description_goes_first_and_the_model_last(s3_server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    monkeypatch.setattr(Remote, "upload", lambda self, name, file: sent.append(name))
    published("s3://models/order/1", {"model.pt2": b"1", "readme.txt": b"2", "moorage.yaml": b"{}"})
    assert sent == ["moorage.yaml", "readme.txt", "model.pt2"]


def test_keys_that_may_read_but_not_list(s3_server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise exceptions.PermissionDeniedError("response error, status code: 403")

    (s3_server / "models" / "readable.pt2").write_bytes(b"content")
    monkeypatch.setattr(obstore, "list", denied)
    fetch("s3://models/readable.pt2", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"content"
    with pytest.raises(errors.AccessDenied, match="s3:ListBucket"):
        fetch("s3://models/folder", tmp_path / "b")


def test_bytes_of_another_version_are_gone_before_the_journal_names_this_one(
    s3_server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (s3_server / "models" / "changed").write_bytes(b"new content")
    part = tmp_path / "a.part"
    part.write_bytes(b"old")

    def killed(*_: object) -> None:
        assert part.read_bytes() == b""
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "begin", killed)
        with pytest.raises(KeyboardInterrupt):
            fetch("s3://models/changed", tmp_path / "a")
    fetch("s3://models/changed", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"new content"
