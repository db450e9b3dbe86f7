"""Weighted means over micro-batches and ranks."""

from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor


class WeightedMeans:
    """Accumulates ``sum_i w_i x_i / sum_i w_i`` for several quantities at once, in float64 on their device.

    Example:
        >>> means = WeightedMeans()
        >>> means.add(1.0, {"loss": 2.0})
        >>> means.add(3.0, {"loss": 4.0})
        >>> means.means()
        (tensor(4., dtype=torch.float64), {'loss': tensor(3.5000, dtype=torch.float64)})
    """

    def __init__(self) -> None:
        self.weight: Tensor | None = None
        self.sums: dict[str, Tensor] = {}

    def add(self, weight: Tensor | float, values: Mapping[str, Tensor | float]) -> None:
        """Add one micro-batch: its weight and its mean values."""
        anchor = next((v for v in values.values() if isinstance(v, Tensor)), None)
        device = None if anchor is None else anchor.device
        weight = torch.as_tensor(weight, device=device).detach().double()
        self.weight = weight if self.weight is None else self.weight + weight
        for key, value in values.items():
            # a batch without targets has weight 0 and does not count, whatever its value
            term = torch.where(weight == 0, 0.0, weight * torch.as_tensor(value, device=device).detach().double())
            self.sums[key] = self.sums[key] + term if key in self.sums else term

    def means(self, reduce: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The summed weight, and the means, NaN if it is 0; ``reduce`` sums a tensor over ranks (one call)."""
        if self.weight is None:
            return torch.zeros((), dtype=torch.float64), {}
        keys = sorted(self.sums)
        packed = reduce(torch.stack([self.weight, *(self.sums[key] for key in keys)]))
        return packed[0], {key: packed[i + 1] / packed[0] for i, key in enumerate(keys)}

    def total(self, reduce: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """As ``means``, but with no means if the weight is 0; this waits for the device."""
        weight, means = self.means(reduce)
        return weight, means if weight else {}


class NewestMeans:
    """The latest mean of each quantity; a window of weight 0 leaves the previous means as they are.

    Example:
        >>> newest = NewestMeans()
        >>> _ = newest.take(torch.tensor(2.0), {"loss": torch.tensor(3.0)})
        >>> newest.take(torch.tensor(0.0), {"loss": torch.tensor(torch.nan)})
        {'loss': tensor(3.)}
    """

    def __init__(self) -> None:
        self.means: dict[str, Tensor] = {}

    def take(self, weight: Tensor, means: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Update with the means of one more window; this waits for the device only if a quantity is new."""
        if means.keys() - self.means.keys():
            self.means |= means if weight else {}
        else:
            self.means |= {key: torch.where(weight == 0, self.means[key], mean) for key, mean in means.items()}
        return self.means


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Sum a tensor over all ranks, in place; without a process group it does not change. All ranks must call it.

    Example:
        >>> sum_over_ranks(torch.tensor(3))  # in a single process
        tensor(3)
    """
    if not dist.is_available() or not dist.is_initialized():
        return tensor
    if dist.get_backend() == "nccl" and not tensor.is_cuda:  # before the module is on its device
        moved = tensor.cuda()
        dist.all_reduce(moved)
        return tensor.copy_(moved)
    dist.all_reduce(tensor)
    return tensor
