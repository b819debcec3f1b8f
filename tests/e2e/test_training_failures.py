"""A training that fails says which rank, how, and its last words."""

import json
from typing import Any

import pytest

from cluster import Cluster
from support import deploy


def job(name: str, command: list[str] | None = None, **spec: Any) -> str:
    trainer: dict[str, Any] = (
        {"script": {"command": command}} if command else {"recipe": {"task": "Classification", "target": "y"}}
    )
    body = {
        "workers": 2,
        "trainer": trainer,
        "resources": {"requests": {"cpu": "20m", "memory": "128Mi"}},
        "output": {"uri": f"pvc://models/{name}"},
        **spec,
    }
    # As JSON: kubectl reads YAML's bare `y` as true.
    return json.dumps(
        {"apiVersion": "moorage.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": name}, "spec": body}
    )


RAISES = "import os; r = int(os.environ['RANK'])\nif r == 1: raise ValueError('the colour of rank 1 is wrong')\n"
EXITS = (
    "import os, sys, time; print('leaving now', flush=True)\n"
    "sys.exit(3) if os.environ['RANK'] == '0' else time.sleep(30)"
)

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "raises": (job("raises", ["python", "-c", RAISES]), {"rank": 1, "words": "the colour of rank 1 is wrong"}),
    "exits-three": (job("exits-three", ["python", "-c", EXITS]), {"rank": 0, "exitCode": 3, "words": "leaving now"}),
    "no-data": (
        job("no-data", data={"uri": "configmap://digits-data/absent.npz"}), {"words": "absent.npz"},
    ),
    "no-output": (
        job("no-output", ["python", "-c", "pass"], output={"uri": "pvc://nowhere/x"}), {"words": "nowhere"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_failure_is_explained(moorage: Cluster, model: dict[str, object], name: str) -> None:
    body, expected = CASES[name]
    moorage.kubectl("apply", "-f", "-", input=body)
    try:

        def failure() -> dict[str, Any] | None:
            found = deploy.get(moorage, "trainingjob", name) or {}
            return (found.get("status") or {}).get("lastFailure")

        last = deploy.eventually(failure, 90, "a lastFailure")
        for key in ("rank", "exitCode"):
            if key in expected:
                assert last.get(key) == expected[key], last
        assert expected["words"] in str(last), last
        if name != "no-output":  # a claim may still be made: that one waits
            obj = deploy.wait_for_condition(moorage, "trainingjob", name, "Succeeded", "False", timeout=60)
            assert deploy.condition(obj, "Succeeded")["reason"]
    finally:
        moorage.kubectl("delete", "tjob", name)
