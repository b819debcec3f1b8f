"""How tests are spread: what goes together to one worker, and who has the real cluster to itself."""

import select
import subprocess
import sys
from pathlib import Path

import pytest

from support.spread import ALONE, QUIET, SIDE_BY_SIDE, kind, scope, turn

E2E = Path(__file__).parents[1] / "e2e"


def test_a_file_goes_to_one_worker() -> None:
    assert scope("tests/unit/api/test_parse.py::test_x[a::b]") == "tests/unit/api/test_parse.py"
    assert scope("tests/e2e/test_examples.py::test_example[cars]") == "tests/e2e/test_examples.py"


def test_what_wants_the_cluster_for_itself_goes_to_one_worker_with_its_like() -> None:
    assert scope("tests/e2e/test_gpu.py::test_x") == scope("tests/e2e/test_at_rest.py::test_y") == ALONE


@pytest.mark.parametrize(
    ("nodeid", "expected"),
    [
        ("tests/e2e/test_gpu.py::test_x", "e2e"),
        (ALONE, "e2e"),
        ("tests/integration/test_rest.py::test_x", "api"),
        ("tests/chart/test_on_api_server.py::test_x", "api"),
        ("tests/unit/api/test_parse.py::test_x", "unit"),
    ],
)
def test_each_kind_is_told_by_the_path(nodeid: str, expected: str) -> None:
    assert kind(nodeid) == expected


def test_files_that_share_the_cluster_are_there() -> None:
    assert {path.name for path in E2E.glob("test_*.py")} >= SIDE_BY_SIDE
    assert {path.name for path in E2E.parent.glob("*/test_*.py")} >= QUIET


HOLD = """
import sys
from pathlib import Path
from support.spread import turn
with turn(Path(sys.argv[1])):
    print("in", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        ("e2e/test_examples.py", "e2e/test_readme.py", True),
        ("e2e/test_examples.py", "e2e/test_gpu.py", False),
        ("e2e/test_gpu.py", "e2e/test_examples.py", False),
        ("e2e/test_gpu.py", "integration/test_rest.py", True),
        ("unit/test_cli.py", "integration/test_rest.py", True),
        ("e2e/test_no_request_lost.py", "integration/test_rest.py", False),
        ("unit/test_cli.py", "e2e/test_no_request_lost.py", False),
    ],
)
def test_turns_on_the_cluster(
    first: str, second: str, together: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOORAGE_CACHE", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(E2E.parent))
    command = [sys.executable, "-c", HOLD, second]
    with turn(Path(first)):
        other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert other.stdout
        entered, _, _ = select.select([other.stdout], [], [], 60 if together else 2)
        assert bool(entered) == together
    said, _ = other.communicate("\n", timeout=60)
    assert said == "in\n"
