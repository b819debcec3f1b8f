"""A result appears on a volume in one step, and never in the place of something that is no model."""

import os
from pathlib import Path

import pytest

from moorage_store import errors, publish
from moorage_store.digest import sha256_of
from moorage_store.publish import Output


def make(target: Path, body: bytes = b"weights", job: str = "job-1") -> str:
    output = Output("pvc://models/digits/1", target, job)
    folder = output.prepare()
    (folder / "sub").mkdir()
    (folder / "model.pt2").write_bytes(body)
    (folder / "sub" / "more").write_bytes(body)
    digest = sha256_of(folder)
    output.publish()
    return digest


@pytest.mark.parametrize("exchange", [True, False])
def test_appears_and_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool) -> None:
    if not exchange:  # as on file systems that cannot, NFS among them
        monkeypatch.setattr(publish, "_exchange", lambda *_: False)
    target = tmp_path / "digits" / "1"
    assert make(target, b"one") == sha256_of(target)
    assert make(target, b"two") == sha256_of(target)
    assert (target / "model.pt2").read_bytes() == b"two"
    assert [path.name for path in target.parent.iterdir()] == ["1"]


def test_exchange_works_here(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "x").touch()
    assert publish._exchange(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b" / "x").exists()


def test_what_a_killed_attempt_left_is_cleared(tmp_path: Path) -> None:
    target = tmp_path / "digits" / "1"
    stale = Output("pvc://models/digits/1", target, "job-1").prepare()
    (stale / "half").write_bytes(b"x")
    make(target)
    assert not (target / "half").exists()


def test_a_folder_of_versions_is_not_replaced_and_this_is_said_before_training(tmp_path: Path) -> None:
    target = tmp_path / "digits"
    make(target / "1")
    with pytest.raises(errors.NotWritable, match=r"is no model \(it holds 1\): give a path of its own"):
        Output("pvc://models/digits", target, "job-1").prepare()
    assert (target / "1" / "model.pt2").exists()


def test_an_empty_folder_is_there_to_be_filled(tmp_path: Path) -> None:
    (tmp_path / "digits").mkdir()
    make(tmp_path / "digits")


def test_nothing_written_is_an_error_and_keeps_the_old(tmp_path: Path) -> None:
    target = tmp_path / "digits"
    make(target)
    output = Output("pvc://models/digits", target, "job-1")
    output.prepare()
    with pytest.raises(errors.NotWritable, match="MOORAGE_OUTPUT_DIR"):
        output.publish()
    assert (target / "model.pt2").exists()


def test_a_read_only_volume_is_said_before_training(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        blocked = Path("/proc/none")  # root may write into any folder but those of the kernel
    else:
        blocked = tmp_path / "read-only" / "x"
        blocked.parent.mkdir(mode=0o500)
    with pytest.raises(errors.NotWritable, match="pvc://models/x cannot be written"):
        Output("pvc://models/x", blocked, "job-1").prepare()


@pytest.mark.parametrize("uri", ["http://host/x", "configmap://a/b", "pvc://models", "pvc://models/", "nonsense"])
def test_an_output_uri_that_cannot_be(tmp_path: Path, uri: str) -> None:
    with pytest.raises(errors.Misconfigured, match=r"pvc://|path of its own"):
        Output(uri, tmp_path / "x", "job")


def test_an_earlier_attempt_that_ends_late_leaves_the_next_one_alone(tmp_path: Path) -> None:
    target = tmp_path / "digits" / "1"
    earlier = Output("pvc://models/digits/1", target, "job-1")
    earlier.prepare()
    later = Output("pvc://models/digits/1", target, "job-1")
    (later.prepare() / "model.pt2").write_bytes(b"later")
    earlier.discard()
    later.publish()
    assert (target / "model.pt2").read_bytes() == b"later"


def test_only_old_folders_of_this_job_are_removed(tmp_path: Path) -> None:
    target = tmp_path / "1"
    names = [".1.job-1.00000000", ".1.job-1.00000001", ".1.job-1.00000002.old", ".1.job-1.x.00000000", ".2.job-1"]
    for name in names:
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / names[1] / "young").touch()
    folder = Output("pvc://models/1", target, "job-1").prepare()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names[1:], folder.name])


def test_the_old_model_comes_back_where_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "1"
    make(target, b"one")
    monkeypatch.setattr(publish, "_exchange", lambda *_: False)
    rename = Path.rename

    def fail(self: Path, to: Path) -> Path:
        if to == target and not self.name.endswith(".old"):
            raise OSError("the volume is gone")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(errors.NotWritable, match="the volume is gone"):
        make(target, b"two")
    assert (target / "model.pt2").read_bytes() == b"one"
