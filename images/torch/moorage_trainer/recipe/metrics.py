"""What is reported about a model, from sums that can be added up over workers."""

import math

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional


def classification_sums(scores: Tensor, y: Tensor) -> Tensor:
    """count, loss, hits"""
    loss = functional.cross_entropy(scores, y, reduction="sum")
    return torch.stack([torch.tensor(float(len(y)), device=y.device), loss, (scores.argmax(dim=1) == y).sum()]).double()


def regression_sums(predicted: Tensor, y: Tensor, center: Tensor) -> Tensor:
    """count, squared error, absolute error, y, y². y counts from `center`: else its square drowns the differences."""
    error, y = (predicted - y).double(), (y - center).double()
    count = torch.tensor(float(y.numel()), device=y.device, dtype=torch.float64)
    return torch.stack([count, (error**2).sum(), error.abs().sum(), y.sum(), (y**2).sum()])


def summary(sums: Tensor, classification: bool) -> dict[str, float]:
    count, *rest = sums.tolist()
    if not count:
        return {}
    if classification:
        return {"loss": rest[0] / count, "accuracy": rest[1] / count}
    squared, absolute, total, squares = rest
    variance = squares - total * total / count
    metrics = {"mse": squared / count, "rmse": math.sqrt(squared / count), "mae": absolute / count}
    # R² compares with always saying the mean; with one value, or equal ones, there is nothing to compare with.
    return {**metrics, "r2": 1 - squared / variance} if variance > 0 else metrics


def added_up(sums: Tensor) -> Tensor:
    if dist.is_initialized():
        dist.all_reduce(sums)
    return sums
