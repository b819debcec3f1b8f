"""Models of other formats on a real cluster: what a script leaves is served in the format that its TrainingJob says."""

import base64
import io
import tarfile
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper
from safetensors.numpy import save_file

from cluster import Cluster
from support import compiled, deploy

SMALL = {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}}


def doubling(folder: Path) -> Path:
    """y = x + x, as ONNX."""
    folder.mkdir()
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, folder / "model.onnx")
    return folder


def scaling(folder: Path) -> Path:
    """y = x * scale, as weights and the module that takes them."""
    folder.mkdir()
    (folder / "net.py").write_text(
        "import torch\nclass Net(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.scale = torch.nn.Parameter(torch.ones(2))\n"
        "    def forward(self, x):\n        return x * self.scale\n"
    )
    tensor = {"datatype": "FP32", "shape": [-1, 2]}
    described = {"module": "net:Net", "inputs": [{"name": "x", **tensor}], "outputs": [{"name": "y", **tensor}]}
    (folder / "moorage.yaml").write_text(yaml.safe_dump(described))
    save_file({"scale": np.array([2, 3], np.float32)}, folder / "model.safetensors")
    return folder


def manifests(name: str, form: str, folder: Path) -> list[dict[str, object]]:
    """A script that leaves the folder's files, and what serves them."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as archive:  # a ConfigMap has room for 1 MiB
        archive.add(folder, ".")
    made = {"made.tar.xz": base64.b64encode(packed.getvalue()).decode()}
    unpack = ["sh", "-c", 'python -m tarfile -e /made/made.tar.xz "$MOORAGE_OUTPUT_DIR"']
    ours = {"apiVersion": "moorage.dev/v1alpha1", "metadata": {"name": name, "labels": {"model": name}}}
    mounted = {
        "containers": [{"name": "trainer", "volumeMounts": [{"name": "made", "mountPath": "/made"}]}],
        "volumes": [{"name": "made", "configMap": {"name": f"{name}-made"}}],
    }
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"{name}-made"}, "binaryData": made},
        {
            **ours,
            "kind": "TrainingJob",
            "spec": {
                "trainer": {"script": {"command": unpack}},
                "output": {"uri": f"pvc://models/{name}", "format": form},
                "resources": SMALL,
                "podTemplate": {"spec": mounted},
            },
        },
        {
            **ours,
            "kind": "ModelDeployment",
            "spec": {
                "model": {"fromTrainingJobs": {"matchLabels": {"model": name}}},
                "runtime": {"torch": {}},
                "resources": SMALL,
            },
        },
    ]


CLAIM = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "models"},
    "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "100Mi"}}},
}


@pytest.mark.timeout(500)
def test_what_scripts_leave_is_served(moorage: Cluster, ns: str, tmp_path: Path) -> None:
    moorage.kubectl("label", "namespace", ns, "pod-security.kubernetes.io/enforce=restricted")
    wanted = [
        CLAIM,
        *manifests("doubling", "ONNX", doubling(tmp_path / "onnx")),
        *manifests("biased", "AOTInductor", compiled.package(tmp_path / "compiled")),
        *manifests("scaling", "Safetensors", scaling(tmp_path / "weights")),
    ]
    moorage.kubectl("apply", "-n", ns, "--server-side", "-f", "-", input=yaml.safe_dump_all(wanted))
    for name in ("doubling", "biased", "scaling"):
        deploy.wait_for_condition(moorage, "mdep", name, "Ready", namespace=ns, timeout=200)

    x = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.5, -2.0]}
    for name, y in (("doubling", [3.0, -4.0]), ("scaling", [3.0, -6.0])):
        with moorage.door(ns, name, 8080) as address:
            answer = httpx.post(f"http://{address}/v2/models/{name}/infer", json={"inputs": [x]}, timeout=30).json()
            assert answer["outputs"][0]["data"] == y
    x = {"name": "x", "datatype": "FP32", "shape": [1, compiled.FEATURES], "data": [0.5] * compiled.FEATURES}
    bias = {"name": "bias", "datatype": "FP32", "shape": [1, compiled.CLASSES], "data": [0.0, 100.0, 0.0]}
    with moorage.door(ns, "biased", 8080) as address:
        answer = httpx.post(f"http://{address}/v2/models/biased/infer", json={"inputs": [x, bias]}, timeout=30).json()
        assert {one["name"]: one["data"] for one in answer["outputs"]}["label"] == [1]
