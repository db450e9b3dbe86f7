"""Weighted means over micro-batches and ranks."""

from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor


class WeightedMeans:
    """Accumulates ``sum_i w_i x_i / sum_i w_i`` for several quantities at once, in float64 on their device."""

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
            # a batch without targets has weight 0 and no say, whatever its value
            term = torch.where(weight == 0, 0.0, weight * torch.as_tensor(value, device=device).detach().double())
            self.sums[key] = self.sums[key] + term if key in self.sums else term

    def total(self, reduce: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The summed weight, and the means where it is not 0; ``reduce`` sums a tensor over ranks (one call)."""
        if self.weight is None:
            return torch.zeros((), dtype=torch.float64), {}
        keys = sorted(self.sums)
        packed = reduce(torch.stack([self.weight, *(self.sums[key] for key in keys)]))
        weight = packed[0]
        return weight, {key: packed[i + 1] / weight for i, key in enumerate(keys)} if weight else {}


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """The sum over all ranks, in place; the tensor as it is where there is no process group. All ranks must call it."""
    if not dist.is_available() or not dist.is_initialized():
        return tensor
    if dist.get_backend() == "nccl" and not tensor.is_cuda:  # before the module is on its device
        moved = tensor.cuda()
        dist.all_reduce(moved)
        return tensor.copy_(moved)
    dist.all_reduce(tensor)
    return tensor
