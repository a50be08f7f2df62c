"""The processes that train one network together, by PyTorch's DistributedDataParallel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a process that trains alone, and a check of the configuration, need not wait for PyTorch here
    from torch import Tensor, nn


@dataclass(frozen=True)
class Ranks:
    """Which of the processes this is, from 0, and how many there are; alone it is 0 of 1.

    With more than one, `torch.distributed` has a process group of so many. Each holds all images and takes its part of
    every batch: together they make the same steps as one process with that batch.
    """

    rank: int = 0
    count: int = 1

    def joined(self, module: nn.Module) -> nn.Module:
        """The module whose gradients are the mean over all processes."""
        if self.count == 1:
            return module
        from torch import nn

        return nn.parallel.DistributedDataParallel(module)

    def part(self, batch: Tensor) -> Tensor:
        """What this process takes of a batch."""
        return batch if self.count == 1 else batch[self.rank :: self.count]

    def sums(self, *values: float) -> list[float]:
        """Each value, summed over the processes: the same digits in all of them."""
        if self.count == 1:
            return list(values)
        import torch

        device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
        numbers = torch.tensor(values, dtype=torch.float64, device=device)
        torch.distributed.all_reduce(numbers)
        summed: list[float] = numbers.tolist()
        return summed


ALONE = Ranks()
