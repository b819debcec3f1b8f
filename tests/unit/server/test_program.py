"""An exported program as a plain function gives what the program gives; fused, too."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from moorage_server import program
from moorage_server.load import _signature
from moorage_server.program import flat, fused

BATCH = torch.export.Dim("batch", min=1, max=64)


class Conv(nn.Module):
    """Its output depends on the number of rows, too: what a trace must not take for a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 7 * 7, 4)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) * x.shape[0]  # type: ignore[no-any-return]


class Branch(nn.Module):
    """Has a graph within its graph, a buffer, and two inputs of which one has a name."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor([2.0, 3.0]))

    def forward(self, x: Tensor, *, shift: Tensor) -> dict[str, Tensor]:
        chosen = torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x - 1, (x,))
        return {"scaled": chosen * self.get_buffer("scale") + shift, "rows": x.sum(1)}


def exported(module: nn.Module, *inputs: Tensor, **named: Tensor) -> torch.export.ExportedProgram:
    shapes: Any = [{0: BATCH} for _ in inputs], {name: {0: BATCH} for name in named}
    dynamic = (*shapes[0], *shapes[1].values())
    return torch.export.export(module.eval(), inputs, named, dynamic_shapes=dynamic)


def same(mine: Any, theirs: Any) -> None:
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 3, 17])
@torch.inference_mode()
def test_a_branch_a_buffer_and_a_named_input(rows: int) -> None:
    whole = exported(Branch(), torch.rand(4, 2), shift=torch.rand(4, 2))
    call = flat(whole)
    for x in (torch.rand(rows, 2), -torch.rand(rows, 2)):
        shift = torch.rand(rows, 2)
        same(call([x, shift]), whole.module()(x, shift=shift).values())


@torch.inference_mode()
def test_fused_convolutions_give_the_same_for_any_number_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "_FASTER", float("inf"))  # however long it takes here
    whole = exported(Conv(), torch.rand(4, 3, 16, 16))
    plain = flat(whole)
    fast = fused(plain, _signature(whole))
    assert fast is not plain
    for rows in (1, 2, 5, 64):
        x = torch.rand(rows, 3, 16, 16)
        same(fast([x]), plain([x]))


def test_what_cannot_be_fused_or_is_no_faster_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    no_convolution = exported(nn.Linear(4, 2), torch.rand(4, 4))
    plain = flat(no_convolution)
    assert fused(plain, _signature(no_convolution)) is plain

    whole = exported(Conv(), torch.rand(4, 3, 16, 16))
    plain = flat(whole)
    monkeypatch.setattr(program, "_FASTER", 0.0)
    assert fused(plain, _signature(whole)) is plain
    monkeypatch.setattr(program, "_MOST_FUSED_BYTES", 10)
    assert fused(plain, _signature(whole)) is plain


def test_another_result_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "_FASTER", float("inf"))
    whole = exported(Conv(), torch.rand(4, 3, 16, 16))
    wrong = flat(whole)
    other = flat(exported(Conv(), torch.rand(4, 3, 16, 16)))
    monkeypatch.setattr(program, "_script", lambda *_: other)
    assert fused(wrong, _signature(whole)) is wrong
