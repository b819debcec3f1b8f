"""An image's tag is decided by what goes into it, and nothing is built that is there already."""

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from cluster import images
from cluster.interface import ClusterError
from cluster.names import CHECKOUT
from cluster.progress import Progress

QUIET = Progress(file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
BASE = "python:1"


class Recorder:
    """A builder that only remembers."""

    folder = None

    def __init__(self) -> None:
        self.built: list[str] = []
        self.delivered: list[str] = []

    def base(self, progress: Progress) -> str:
        return BASE

    def has(self, name: str) -> bool:
        return name in self.built

    def build(self, image: images.Image, context: Path, arguments: Mapping[str, str], progress: Progress) -> None:
        assert (context / "Dockerfile").is_file()
        self.built.append(image.name)

    def deliver(self, names: Iterable[str], progress: Progress) -> None:
        self.delivered = list(names)


@pytest.fixture(autouse=True)
def lock_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """uv itself is not needed to test what is done with its output."""
    monkeypatch.setattr(images, "exported", lambda *options: f"torch==2.13.0\n# {' '.join(options)}\n")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)


def image(**files: bytes) -> images.Image:
    return images.Image("ghcr.io/moorage/x", {"Dockerfile": b"FROM scratch\n", **files})


def test_the_same_content_gives_the_same_tag_in_any_order() -> None:
    one = images.Image("r", {"a": b"1", "b": b"2"})
    other = images.Image("r", {"b": b"2", "a": b"1"})
    assert one.name == other.name
    assert one.name.startswith("r:") and len(one.name) == len("r:") + 12


@pytest.mark.parametrize(
    "changed",
    [
        images.Image("ghcr.io/moorage/y", {"a": b"1"}),
        images.Image("ghcr.io/moorage/x", {"a": b"2"}),
        images.Image("ghcr.io/moorage/x", {"b": b"1"}),
        images.Image("ghcr.io/moorage/x", {"a": b"1"}, {"BASE_IMAGE": "python:2"}),
    ],
)
def test_each_input_changes_the_tag(changed: images.Image) -> None:
    assert changed.name != images.Image("ghcr.io/moorage/x", {"a": b"1"}).name


def test_a_file_of_the_cache_counts_by_content_and_a_wheel_by_name_and_size(tmp_path: Path) -> None:
    program, wheel = tmp_path / "program", tmp_path / "torch-1+cpu-cp311.whl"
    for path in (program, wheel):
        path.write_bytes(b"one")
    before = [images.Image("r", {"f": path}).name for path in (program, wheel)]
    for path in (program, wheel):
        path.write_bytes(b"two")
    after = [images.Image("r", {"f": path}).name for path in (program, wheel)]
    assert before[0] != after[0]
    assert before[1] == after[1]


def test_the_context_is_what_was_named_also_when_sources_change_meanwhile(tmp_path: Path) -> None:
    source, context = tmp_path / "package", tmp_path / "context"
    (source / "sub" / "__pycache__").mkdir(parents=True)
    (source / "sub" / "a.py").write_text("before")
    (source / "sub" / "__pycache__" / "a.pyc").write_text("leftover")
    named = images.Image("r", images.package("p", source))
    name = named.name
    (source / "sub" / "a.py").write_text("after")
    named.assemble(context)
    assert [path.relative_to(context).as_posix() for path in context.rglob("*.*")] == ["p/sub/a.py"]
    assert (context / "p/sub/a.py").read_text() == "before"
    assert named.name == name != images.Image("r", images.package("p", source)).name


def test_nothing_is_built_twice_and_everything_is_delivered() -> None:
    builder = Recorder()
    first = images.project_images(QUIET, builder)
    assert list(first) == ["operator", "torch", "triton"]
    assert builder.built == list(first.values())
    assert images.project_images(QUIET, builder) == first
    assert len(builder.built) == 3
    assert builder.delivered == list(first.values())


def test_a_wheel_folder_gives_another_torch_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images.platform, "machine", lambda: "x86_64")
    version = images.locked("torch")
    wheel = tmp_path / f"torch-{version}+cpu-cp311-cp311-manylinux_2_28_x86_64.whl"
    for name in (
        wheel.name,
        f"torch-{version}+cpu-cp312-cp312-manylinux_2_28_x86_64.whl",
        "torch-0.1-cp311-x86_64.whl",
    ):
        (tmp_path / name).touch()
    assert images.torch_wheel(f"/nowhere https://example.com/wheels {tmp_path}", version) == wheel
    assert images.torch_wheel("/nowhere", version) is None
    with_wheel, without = images.torch_image(BASE, wheel), images.torch_image(BASE, None)
    assert with_wheel.files["requirements-torch.txt"] == f"torch=={version}+cpu\n".encode()
    assert without.files["requirements-torch.txt"] == f"torch=={version}\n".encode()
    assert f"wheels/{wheel.name}" in with_wheel.files
    assert with_wheel.name != without.name


def test_new_code_of_the_server_makes_new_torch_and_triton_images_and_no_new_operator() -> None:
    torch = images.torch_image(BASE, None)
    edited = images.Image(torch.repository, {**torch.files, "packages/moorage_server/new.py": b""}, torch.bases)
    assert edited.name != torch.name
    assert images.triton_image(BASE, edited.name).name != images.triton_image(BASE, torch.name).name
    assert not any(path.startswith("packages/") for path in images.operator_image(BASE).files)


def test_what_only_the_operator_needs_is_left_out_of_the_torch_image() -> None:
    left_out = images.operator_only()
    assert {"kopf", "kubernetes"} <= set(left_out)
    assert not {"torch", "numpy", "aiohttp", "structlog"} & set(left_out)
    requirements = images.torch_image(BASE, None).files["requirements.txt"]
    assert isinstance(requirements, bytes)
    assert b"--prune kopf" in requirements and b"--prune torch" in requirements


def test_nothing_is_left_out_that_a_package_of_the_torch_image_needs() -> None:
    """To leave one out that comes by way of another would end its build: every requirement has to have a hash."""
    packages = tomllib.loads((CHECKOUT / "uv.lock").read_text())["package"]
    needs = {p["name"]: {d["name"] for d in p.get("dependencies", [])} for p in packages}
    ours = next(p for p in packages if "editable" in p["source"])
    missing = {d["name"] for extra in images.EXTRAS for d in ours["optional-dependencies"][extra]} - {"torch"}
    there: set[str] = set()
    while missing:
        there |= missing
        missing = {need for name in missing for need in needs[name]} - there
    assert there & set(images.operator_only()) == set()


def test_a_small_disk_is_told_before_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = images.shutil._ntuple_diskusage(10**11, 10**11, 10**9)  # type: ignore[attr-defined]
    monkeypatch.setattr(images.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(ClusterError, match=r"1 GB free.*about 24 GB.*MOORAGE_CACHE.*PIP_FIND_LINKS"):
        images.need_room(tmp_path, None)
    with pytest.raises(ClusterError, match=r"about 8 GB"):
        images.need_room(tmp_path, tmp_path / "torch.whl")


def test_a_missing_uv_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV", str(tmp_path / "none"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(images, "ROOT", tmp_path)
    with pytest.raises(ClusterError, match="UV=/path/to/uv"):
        images.uv()


@pytest.mark.parametrize("name", ["operator", "torch", "triton"])
def test_every_image_runs_as_nobody_special_and_says_where_it_comes_from(name: str) -> None:
    text = (images.ROOT / "images" / name / "Dockerfile").read_text()
    assert text.startswith("# ") and "ARG BASE_IMAGE=" in text
    assert text.rindex("USER 65532:65532") > text.rindex("RUN ") if name != "triton" else "USER" not in text
    for label in ("title", "description", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in text
    installs = text.count("pip install")
    assert text.count("--no-cache-dir") == installs > 0
