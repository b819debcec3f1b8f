"""The training itself: data-parallel over all workers, on GPUs where there are some, and told about while it runs."""

import math
import os
import time
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from moorage_trainer import report
from moorage_trainer.recipe import metrics, network
from moorage_trainer.recipe.config import Recipe
from moorage_trainer.recipe.dataset import Table
from moorage_trainer.recipe.sampler import Sampler, share, split


class NonFiniteLoss(Exception):
    """The loss became NaN or infinite."""

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


@dataclass(frozen=True)
class Worker:
    rank: int
    world: int
    device: torch.device


@dataclass(frozen=True)
class Result:
    model: nn.Module  # ready to be exported, on the CPU
    metrics: dict[str, float]


class Training:
    def __init__(self, recipe: Recipe, table: Table, worker: Worker) -> None:
        self.recipe, self.worker, self.classes = recipe, worker, table.classes
        train, held = split(len(table.x), recipe.validation_fraction, recipe.seed)
        x, y = torch.from_numpy(table.x), torch.from_numpy(table.y)
        self.scale = network.Scale(x[train])
        self.target_scale = network.Scale(y[train]) if table.classes is None else None
        outputs = len(table.classes) if table.classes is not None else y.shape[1]
        torch.manual_seed(recipe.seed)
        self.network = network.build(recipe, x.shape[1], outputs).to(worker.device)
        scaled, goal = self.scale(x), self.target_scale(y) if self.target_scale else y
        self.x, self.y = scaled[train].to(worker.device), goal[train].to(worker.device)
        mine = share(held, worker.rank, worker.world)
        self.held_x, self.held_y = scaled[mine].to(worker.device), y[mine].to(worker.device)
        self.sampler = Sampler(len(train), recipe.batch_size, recipe.seed)
        self.total_steps = recipe.epochs * self.sampler.steps_per_epoch
        self.step = 0

    def run(self) -> Result:
        recipe, worker = self.recipe, self.worker
        parallel: nn.Module = self.network
        if worker.world > 1:
            parallel = DistributedDataParallel(self.network)
        torch.manual_seed(recipe.seed + worker.rank)  # of dropout: other on every worker
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.total_steps)
        say = _Teller(self, enabled=worker.rank == 0)
        result: dict[str, float] = {}
        for epoch in range(1, recipe.epochs + 1):
            self.network.train()
            sums = torch.zeros(2, dtype=torch.float64)
            for part in self.sampler:
                sums += self._one_step(parallel, optimizer, part)
                schedule.step()
                say.maybe(epoch, len(part), result)
            count, loss = metrics.added_up(sums.to(worker.device)).tolist()
            result = {"trainLoss": loss / count, **self._validate()}
            say.epoch(epoch, result)
        return Result(self._served(), result)

    def _one_step(self, parallel: nn.Module, optimizer: torch.optim.Optimizer, part: Tensor) -> Tensor:
        """Samples and summed loss of this rank."""
        mine = share(part, self.worker.rank, self.worker.world)
        output = parallel(self.x[mine])
        loss = self._loss(output, self.y[mine])
        # Workers' gradients are averaged, but their shares may differ by one: this is the mean over the whole batch.
        optimizer.zero_grad()
        (loss * self.worker.world / len(part)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        self.step += 1
        value = loss.item()
        if not math.isfinite(value):
            rate = self.recipe.learning_rate
            raise NonFiniteLoss(
                f"the loss is {value} at step {self.step}: lower recipe.learningRate (it is {rate:g}, "
                f"try {rate / 10:g}), and look for extreme values in the data",
                self.step,
            )
        return torch.tensor([len(mine), value], dtype=torch.float64)

    def _loss(self, output: Tensor, y: Tensor) -> Tensor:
        if self.classes is not None:
            return functional.cross_entropy(output, y, reduction="sum")
        return functional.mse_loss(output, y, reduction="sum") / y.shape[1]

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        self.network.eval()
        output = self.network(self.held_x)
        if self.target_scale is None:
            sums = metrics.classification_sums(output, self.held_y)
        else:
            scale = self.target_scale.to(output.device)
            sums = metrics.regression_sums(scale.back(output), self.held_y, scale.mean)
        return metrics.summary(metrics.added_up(sums), self.classes is not None)

    def _served(self) -> nn.Module:
        scale, core = self.scale.cpu(), self.network.cpu()
        if self.target_scale is not None:
            return network.Regressor(scale, core, self.target_scale.cpu()).eval()
        return network.Classifier(scale, core, self.classes or []).eval()


class _Teller:
    """Progress for the launcher, at most twice a second, and a line of log for an epoch, at most once a second."""

    def __init__(self, training: Training, enabled: bool) -> None:
        self._training, self._enabled = training, enabled
        self._progress, self._log = report.Throttle(0.5), report.Throttle(1)
        self._start = time.monotonic()
        self._samples = 0

    def maybe(self, epoch: int, samples: int, result: dict[str, float]) -> None:
        self._samples += samples
        if self._enabled and self._progress.ready():
            self._write(epoch, result)

    def epoch(self, epoch: int, result: dict[str, float]) -> None:
        last = epoch == self._training.recipe.epochs
        if self._enabled and (self._log.ready() or last):
            figures = ", ".join(f"{name} {value:.4g}" for name, value in result.items())
            print(f"epoch {epoch}/{self._training.recipe.epochs}: {figures}", flush=True)
        if self._enabled and (self._progress.ready() or last):
            self._write(epoch, result)

    def _write(self, epoch: int, result: dict[str, float]) -> None:
        training = self._training
        speed = self._samples / max(time.monotonic() - self._start, 1e-6)
        report.write(
            report.PROGRESS,
            {
                "step": training.step,
                "totalSteps": training.total_steps,
                "epoch": epoch,
                "samplesPerSecond": round(speed, 1),
                "metrics": result,
            },
        )


def join() -> Worker:
    """Meets the other workers, as torchrun says."""
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if world > 1:
        dist.init_process_group("nccl" if cuda else "gloo", device_id=device if cuda else None)
    return Worker(rank, world, device)
