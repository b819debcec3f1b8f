"""A model compiled by AOTInductor, with a real compiler."""

import json
import subprocess
import sys
from pathlib import Path

from cluster.packages import Package, require
from cluster.progress import Progress

FEATURES, CLASSES = 8, 3
DESCRIBED = {
    "inputs": [
        {"name": "x", "datatype": "FP32", "shape": [-1, FEATURES]},
        {"name": "bias", "datatype": "FP32", "shape": [-1, CLASSES]},
    ],
    "outputs": [
        {"name": "label", "datatype": "INT64", "shape": [-1]},
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, CLASSES]},
    ],
}
# In a process of its own: the compiler brings half of torch along.
COMPILE = f"""
import sys, torch
class Biased(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear({FEATURES}, {CLASSES})
    def forward(self, x, bias):
        probabilities = (self.layer(x) + bias).softmax(-1)
        return {{"probabilities": probabilities, "label": probabilities.argmax(-1)}}
batch, model = torch.export.Dim("batch", min=1, max=1024), Biased().eval()
example = (torch.rand(4, {FEATURES}), torch.rand(4, {CLASSES}))
program = torch.export.export(model, example, dynamic_shapes=({{0: batch}}, {{0: batch}}))
options = {{"cpp.dynamic_threads": True}}
torch._inductor.aoti_compile_and_package(program, package_path=sys.argv[1], inductor_configs=options)
torch.save(model(*example), sys.argv[2])
torch.save(example, sys.argv[3])
"""


def package(folder: Path) -> Path:
    """The folder, with the package and moorage.yaml; and beside it, in taken.pt and given.pt, what the model took and
    gave before."""
    require((Package("g++", "g++"),), Progress())
    folder.mkdir()
    files = [str(file) for file in (folder / "model.pt2", folder.parent / "given.pt", folder.parent / "taken.pt")]
    subprocess.run([sys.executable, "-c", COMPILE, *files], check=True, timeout=600)
    (folder / "moorage.yaml").write_text(json.dumps(DESCRIBED))
    return folder
