"""Bad requests to Triton, behind the layout we give it: it refuses nearly all of them, and serves on after each."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from support import bad_requests, infer
from support.bad_requests import NO_VERSION, PATIENCE, SILENCE

from .conftest import Triton

FEATURES = 8
FUZZ_SECONDS = float(os.environ.get("FUZZ_SECONDS") or 30)
FUZZ_SEED = int(os.environ.get("FUZZ_SEED") or 0)
GROWTH_MIB = 64


class Classifier(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(FEATURES, 3)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"label": self.layer(x).argmax(-1)}


@pytest.fixture
def server(triton: Callable[..., Triton], tmp_path: Path) -> Triton:
    batch = torch.export.Dim("batch")
    program = torch.export.export(Classifier().eval(), (torch.randn(4, FEATURES),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "model.pt2")
    return triton(tmp_path).wait_until_ready()


def answers_well(server: Triton) -> bool:
    return len(infer.over_http(server.http, "digits", torch.zeros(4, FEATURES).numpy()).labels) == 4


def memory_mib(server: Triton) -> float:
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_bad_requests_do_it_no_harm(server: Triton) -> None:
    wrong = bad_requests.wrong_answers(server.http, bad_requests.cases("digits", FEATURES), torch=False)
    assert wrong == []
    assert answers_well(server)


def test_whatever_comes_it_serves_on(server: Triton) -> None:
    """But for what is known to end it, a shape beyond memory."""
    harmless = [case.raw for case in bad_requests.cases("digits", FEATURES) if case.triton and not huge(case.raw)]
    raws = [*harmless, *[bad_requests.fine("digits", FEATURES)] * len(harmless)]
    assert answers_well(server)
    before = memory_mib(server)
    got = bad_requests.fuzz(server.http, raws, seconds=FUZZ_SECONDS, seed=FUZZ_SEED, patience=2, but=huge)
    print(got, memory_mib(server) - before)
    assert server.process.poll() is None, server.words()
    assert {200, 400} <= got.keys() <= {NO_VERSION, PATIENCE, SILENCE, 200, 400, 404, 405, 413, 415, 431, 500, 501, 503}
    assert memory_mib(server) - before < GROWTH_MIB
    assert answers_well(server)


def huge(raw: bytes) -> bool:
    """It may have a number in it that Triton would make room for."""
    return re.search(rb"[0-9]{6}", raw) is not None
