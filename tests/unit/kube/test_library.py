"""The operator loads no more of its libraries than it uses, and what its tests use besides is still there."""

import subprocess
import sys


def run(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def test_requests_and_the_dynamic_client_stay_out() -> None:
    loaded = run("import sys, moorage.app; print(*sys.modules, sep='\\n')").split()
    assert "kubernetes.aio.client" in loaded
    unwanted = ("requests", "jsonschema", "kubernetes.config", "kubernetes.dynamic", "kubernetes.aio.dynamic")
    assert [name for name in unwanted if name in loaded] == []


def test_the_synchronous_client_can_be_loaded_before_and_after() -> None:
    used = "from kubernetes.client import ApiClient; from kubernetes.config import new_client_from_config"
    run(f"import moorage.kube.library; {used}")
    run(f"{used}; import moorage.kube.library")
