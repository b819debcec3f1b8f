"""The command line where it is given what it cannot use."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from moorage.cli import app


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.yaml", tmp_path):
        result = CliRunner().invoke(app, ["render", str(path)])
        assert result.exit_code == 2
        assert f"{path} cannot be read" in result.output


def test_a_dash_is_stdin() -> None:
    result = CliRunner().invoke(app, ["render", "-"], input="kind: Other\n")
    assert result.exit_code == 0


def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOORAGE_GPU_TOLERATIONS", "foo")
    result = CliRunner().invoke(app, ["render", "-"], input="")
    assert result.exit_code == 78
    assert "MOORAGE_GPU_TOLERATIONS" in result.output
