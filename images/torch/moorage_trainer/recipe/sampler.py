"""Which samples each worker sees, and when: the same for any number of workers.

An epoch is one permutation, from the seed and the epoch alone. A step takes the next `batch` of it, and each rank every
`world`-th of those. So the state is (seed, epoch, consumed), without any rank in it, and a run may go on with another
number of workers where one stopped: no sample is lost or seen twice.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch


@dataclass
class Sampler:
    count: int
    batch: int
    seed: int
    epoch: int = 0
    consumed: int = 0

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.count // self.batch)

    def __iter__(self) -> Iterator[torch.Tensor]:
        """The rest of this epoch, one global batch after the other; afterwards the state is at the next epoch."""
        order = self._order()
        while self.consumed < self.count:
            part = order[self.consumed : self.consumed + self.batch]
            self.consumed += len(part)
            yield part
        self.epoch, self.consumed = self.epoch + 1, 0

    def _order(self) -> torch.Tensor:
        # NumPy mixes the two; torch takes 32 bits of a seed and would drop one of them.
        return torch.from_numpy(np.random.default_rng([self.seed, self.epoch]).permutation(self.count))


def share(part: torch.Tensor, rank: int, world: int) -> torch.Tensor:
    """What of a global batch falls to a rank; may be nothing, in an epoch's last batch."""
    return part[rank::world]


def split(count: int, fraction: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Indexes to train on and to validate with. At least one of each, unless the fraction is 0."""
    order = torch.from_numpy(np.random.default_rng(seed).permutation(count))
    held = min(count - 1, max(1, round(count * fraction))) if fraction else 0
    return order[held:].sort().values, order[:held].sort().values
