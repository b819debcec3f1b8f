"""The native builder's bookkeeping: what a mirror calls an image, and how a tool's failure is told."""

import sys
from pathlib import Path

import pytest

from cluster import buildah
from cluster.interface import ClusterError
from cluster.progress import Progress
from cluster.stream import stream


@pytest.mark.parametrize(
    ("name", "path", "tag"),
    [
        ("docker.io/library/python:3.11", "library/python", "3.11"),
        ("python:3.11", "library/python", "3.11"),
        ("ghcr.io/moorage/torch:abc", "moorage/torch", "abc"),
        ("localhost:5000/a/b:1", "a/b", "1"),
        ("localhost:5000/a", "a", "latest"),
        ("someone/app", "someone/app", "latest"),
    ],
)
def test_a_mirror_serves_an_image_without_its_registry(name: str, path: str, tag: str) -> None:
    assert buildah.mirror_path(name) == (path, tag)


def test_an_image_is_there_when_the_registry_has_its_tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOORAGE_CACHE", str(tmp_path))
    builder = buildah.Buildah(tmp_path / "registry-binary")
    assert not builder.has("ghcr.io/moorage/torch:abc")
    tags = tmp_path / "registry/docker/registry/v2/repositories/moorage/torch/_manifests/tags"
    (tags / "abc/current").mkdir(parents=True)
    (tags / "abc/current/link").touch()
    assert builder.has("ghcr.io/moorage/torch:abc")
    assert not builder.has("ghcr.io/moorage/torch:abd")


def test_a_failing_tool_is_told_by_its_last_lines(tmp_path: Path) -> None:
    program = "print(*range(100), sep='\\n'); raise SystemExit(3)"
    with (tmp_path / "out").open("w") as out, pytest.raises(ClusterError) as error:
        stream([sys.executable, "-c", program], "the tool", Progress(file=out))
    lines = str(error.value).splitlines()
    assert lines[0] == "the tool failed (3). Its last lines:"
    assert lines[1:] == [str(i) for i in range(70, 100)]
