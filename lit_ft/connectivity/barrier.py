"""How high the loss rises between two networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_ft.core.errors import ConfigError


def barrier(positions: Tensor, losses: Tensor) -> Tensor:
    r"""How far the loss rises above the line between the ends: :math:`\max_t L(t) - (1 - t) L(0) - t L(1)`.

    Args:
        positions: Ascending, from 0 to 1; shape (points,).
        losses: Losses at these positions, shape (points,).

    Example:
        >>> barrier(torch.tensor([0.0, 0.5, 1.0]), torch.tensor([1.0, 3.5, 2.0]))
        tensor(2.)
    """
    return (losses - torch.lerp(losses[0], losses[-1], positions.to(losses))).max()


class Barrier(Metric):
    r"""The barrier along a path, :math:`\max_t L(t) - (1 - t) L(0) - t L(1)`, from losses of rows; 0 without a barrier.

    Args:
        positions: Positions where the loss is measured: ascending, from 0 to 1.

    See also: :func:`~lit_ft.connectivity.profile.losses_along`, which measures the losses.

    Example:
        >>> metric = Barrier(positions=[0.0, 0.5, 1.0])
        >>> for number, losses in enumerate([[0.5, 1.5], [3.0, 4.0], [2.0, 2.0]]):
        ...     metric.update(number, torch.tensor(losses))
        >>> metric.compute()  # 3.5 - (1 + 2) / 2
        tensor(2., dtype=torch.float64)
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    sums: Tensor
    rows: Tensor

    def __init__(self, positions: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0)) -> None:
        super().__init__()
        places = torch.as_tensor(list(positions), dtype=torch.float64)
        if len(places) < 2 or places[0] != 0 or places[-1] != 1 or (places.diff() <= 0).any():
            raise ConfigError("positions", list(positions), "ascending numbers from 0 to 1")
        self.positions = places
        self.add_state("sums", torch.zeros(len(places), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("rows", torch.zeros(len(places), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, number: int, losses: Tensor) -> None:
        """Add the losses of rows at one position.

        Args:
            number: Number of the position.
            losses: Losses of the rows, shape (rows,).
        """
        self.sums[number] += losses.double().sum()
        self.rows[number] += losses.numel()

    def compute(self) -> Tensor:
        """The barrier."""
        return barrier(self.positions, self.sums / self.rows)
