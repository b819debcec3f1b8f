"""Bad requests to Triton, behind the layout we give it: it refuses nearly all of them, and serves on after each."""

from collections.abc import Callable
from pathlib import Path

import torch

from support import bad_requests, infer

from .conftest import Triton

FEATURES = 8


class Classifier(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(FEATURES, 3)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"label": self.layer(x).argmax(-1)}


def test_bad_requests_do_it_no_harm(triton: Callable[..., Triton], tmp_path: Path) -> None:
    batch = torch.export.Dim("batch")
    program = torch.export.export(Classifier().eval(), (torch.randn(4, FEATURES),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "model.pt2")
    server = triton(tmp_path).wait_until_ready()
    wrong = bad_requests.wrong_answers(server.http, bad_requests.cases("digits", FEATURES), torch=False)
    assert wrong == []
    assert len(infer.over_http(server.http, "digits", torch.zeros(4, FEATURES).numpy()).labels) == 4
    server.stop()
