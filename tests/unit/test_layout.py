"""The top level is called `operator`, like a module of the standard library."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_operator_folder_does_not_shadow_the_standard_library() -> None:
    # With an __init__.py (or any module file) here, `import operator` from the repository root would find this
    # folder instead of the standard library's module, and half of Python would break.
    assert not list((ROOT / "operator").glob("*.py"))
    code = "import operator; print(operator.itemgetter(0)('moorage'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.stdout.strip() == "m", done.stderr
