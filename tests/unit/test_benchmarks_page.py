"""docs/benchmarks.md shows what is in tests/bench/results, and says what it cannot show."""

import json

import pytest

from bench import page, report
from bench.report import Row


def test_the_page_shows_the_results_that_are_kept() -> None:
    text = page.PAGE.read_text()
    assert page.MARK.search(text)
    assert page.rendered(text) == text, "run: PYTHONPATH=tests .venv/bin/python -m bench.page"


def test_a_row_that_falls_short_is_shown_as_such(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    rows = [report.at_most("writes", 2, 3, ""), report.told("wall", 61.234, "s"), report.at_most("tasks", 0, None, "")]
    written = report.finish("some", rows, {"kubernetes": "v1.2.3"})
    kept = json.loads(written.read_text())["rows"]
    assert kept[0] == {"what": "writes", "asked": "≤ 2", "measured": 3, "unit": "", "ok": False}
    shown = page.section("some")
    assert "| writes | ≤ 2 | 3 | **no** |" in shown
    assert "| wall |  | 61.2 s |  |" in shown
    assert "| tasks | 0 | not measured | **no** |" in shown


def test_what_was_never_measured_is_said(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    assert page.section("nothing") == "Not measured yet.\n"


@pytest.mark.parametrize(("measured", "ok"), [(2.0, True), (2.0001, False), (None, False), (0.0, True)])
def test_a_bound_is_held_exactly(measured: float | None, ok: bool) -> None:
    found: Row = report.at_most("x", 2, measured, "")
    assert found.ok is ok


def test_servers_side_by_side_and_every_run(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    rows = [report.told("mlp JSON, c=64", 90, "req/s"), report.told("conv binary, c=64", 9, "req/s")]
    keys = ("per_second", "p50", "p99", "p999", "cpu_us", "memory_mib", "refused", "broken")
    peers = (
        "mlp, A 1.0 (b) with ours, c=64",
        "mlp, A 1.0 (b) with ours, c=1",
        "mlp, B, c=64",
        "mlp, B, c=64: ours after it",
    )
    names = (*peers, "mlp JSON c=64", "conv binary c=64")
    runs = {name: dict.fromkeys(keys, float(10 + i)) for i, name in enumerate(names)}
    report.finish("some", rows, {"torch": "2"}, runs=runs)
    shown = page.section("some")
    assert shown.count("```mermaid") == 1
    assert '  x-axis ["Moorage", "B", "A 1.0"]\n  bar [14, 12, 10]\n' in shown
    assert "| mlp, B, c=64: ours after it | 13 |" in shown
