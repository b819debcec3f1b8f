"""The network that is trained, and the module around it that is served.

The served module takes raw values: it standardises its input with what training saw, and turns the network's output
into what a client asks for.
"""

import torch
from torch import Tensor, nn

from moorage_trainer.recipe.config import Recipe


def build(recipe: Recipe, inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for size in recipe.hidden_sizes:
        layers += [nn.Linear(inputs, size), nn.ReLU()]
        if recipe.dropout:
            layers.append(nn.Dropout(recipe.dropout))
        inputs = size
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


class Scale(nn.Module):
    """Mean and spread of each column. A column that never changes is left at 0, whatever comes later."""

    mean: Tensor
    spread: Tensor

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        spread = values.double().std(dim=0, correction=0)
        self.register_buffer("mean", values.double().mean(dim=0).float())
        self.register_buffer("spread", torch.where(spread > 0, spread, torch.ones_like(spread)).float())

    def forward(self, values: Tensor) -> Tensor:
        return (values - self.mean) / self.spread

    def back(self, values: Tensor) -> Tensor:
        return values * self.spread + self.mean


class Classifier(nn.Module):
    """Outputs `probabilities` and `label`: the class itself where classes are integers, else its index."""

    labels: Tensor

    def __init__(self, scale: Scale, network: nn.Module, classes: list[int] | list[str]) -> None:
        super().__init__()
        self.scale, self.network = scale, network
        labels = [kind if isinstance(kind, int) else index for index, kind in enumerate(classes)]
        self.register_buffer("labels", torch.tensor(labels, dtype=torch.int64))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.network(self.scale(x))
        return scores.softmax(dim=1), self.labels[scores.argmax(dim=1)]


class Regressor(nn.Module):
    """Output `y`, in the units of the data."""

    def __init__(self, scale: Scale, network: nn.Module, target_scale: Scale) -> None:
        super().__init__()
        self.scale, self.network, self.target_scale = scale, network, target_scale

    def forward(self, x: Tensor) -> Tensor:
        return self.target_scale.back(self.network(self.scale(x)))
