"""Debian packages are installed when something is missing, and only then."""

import io
from pathlib import Path

import pytest

from cluster.interface import ClusterError
from cluster.packages import Package, require
from cluster.progress import Progress

MISSING = Package("thing", "/nowhere/thing")


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for apt-get that has no package lists until it is told to update."""
    script = """#!/bin/sh
echo "$*" >>"$APT/calls"
[ "$1" = update ] && exec touch "$APT/lists"
[ -e "$APT/lists" ] || { echo "no such package" >&2; exit 100; }
"""
    (tmp_path / "apt-get").write_text(script)
    (tmp_path / "apt-get").chmod(0o755)
    monkeypatch.setenv("APT", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def calls(apt: Path) -> list[str]:
    log = apt / "calls"
    return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []


def test_what_is_there_is_not_installed(apt: Path) -> None:
    require([Package("coreutils", "ls"), Package("base-files", "/etc")], Progress(io.StringIO()))
    assert calls(apt) == []


def test_what_is_missing_is_installed_by_name(apt: Path) -> None:
    (apt / "lists").touch()
    require([MISSING, Package("coreutils", "ls")], Progress(io.StringIO()))
    assert (apt / "calls").read_text() == "install -y -q --no-install-recommends thing\n"


def test_lists_are_fetched_when_the_package_is_not_known(apt: Path) -> None:
    require([MISSING], Progress(io.StringIO()))
    assert calls(apt) == ["install", "update", "install"]


def test_elsewhere_than_on_debian_the_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ClusterError, match="/nowhere/thing; install them"):
        require([MISSING], Progress(io.StringIO()))
