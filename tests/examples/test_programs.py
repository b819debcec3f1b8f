"""The programs that lie in ConfigMaps do what their example says."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import yaml

from cluster.ports import unused
from examples.manifests import EXAMPLES, program


def test_spirals_train_over_two_processes_and_export(tmp_path: Path) -> None:
    import torch

    script, out, run = tmp_path / "train.py", tmp_path / "out", tmp_path / "run"
    script.write_text(program("script", "spirals-program", "train.py"))
    out.mkdir()
    run.mkdir()
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script, "--steps=120"],
        env={**os.environ, "MOORAGE_OUTPUT_DIR": str(out), "MOORAGE_RUN_DIR": str(run), "OMP_NUM_THREADS": "1"},
        timeout=120,
        check=True,
    )
    progress = json.loads((run / "progress.json").read_text())
    assert (progress["step"], progress["totalSteps"]) == (120, 120)
    metrics = json.loads((run / "result.json").read_text())["metrics"]
    assert metrics["accuracy"] > 0.9

    description = yaml.safe_load((out / "moorage.yaml").read_text())
    assert description["metrics"] == metrics
    model = torch.export.load(out / "model.pt2").module()
    for rows in (1, 5):
        answer = model(torch.zeros(rows, 2))
        assert [o["name"] for o in description["outputs"]] == list(answer)
        assert (answer["probabilities"].shape, answer["label"].shape) == ((rows, 2), (rows,))


def test_word_count_is_laid_out_as_a_triton_repository(tmp_path: Path) -> None:
    for key in ("config.pbtxt", "model.py", "lay_out.py"):
        (tmp_path / key).write_text(program("triton", "word-count-repository", key))
    out = tmp_path / "out"
    environment = {**os.environ, "MOORAGE_OUTPUT_DIR": str(out)}
    subprocess.run([sys.executable, tmp_path / "lay_out.py"], env=environment, timeout=30, check=True)
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert files == {"word-count/config.pbtxt", "word-count/1/model.py"}
    compile((out / "word-count/1/model.py").read_text(), "model.py", "exec")


def test_hello_greets_counts_and_ends_cleanly(tmp_path: Path) -> None:
    [port] = unused(1)
    script = tmp_path / "server.py"
    script.write_text(program("container", "hello-server", "server.py").replace('("", 9000)', f'("127.0.0.1", {port})'))
    process = subprocess.Popen(
        [sys.executable, script], env={**os.environ, "GREETING": "Hello"}, stderr=subprocess.PIPE
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            for _ in range(100):
                try:
                    client.get("/ready").raise_for_status()
                    break
                except httpx.TransportError:
                    time.sleep(0.1)
            else:
                pytest.fail("the server does not come up")
            assert client.post("/", content="Ada").text == "Hello, Ada\n"
            assert client.get("/metrics").text == "hello_requests_in_flight 0\n"
            assert client.get("/nowhere").status_code == 404
        process.terminate()
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.wait(timeout=10)


def test_hello_is_scraped_where_it_listens() -> None:
    (manifest,) = (
        m for m in yaml.safe_load_all((EXAMPLES / "container/hello.yaml").read_text()) if m["kind"] == "ModelDeployment"
    )
    port = manifest["spec"]["runtime"]["container"]["port"]
    assert manifest["spec"]["podTemplate"]["metadata"]["annotations"]["prometheus.io/port"] == str(port)
    assert f'("", {port})' in program("container", "hello-server", "server.py")
