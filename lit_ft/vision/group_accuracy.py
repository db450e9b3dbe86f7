"""Accuracy by groups of rows."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_ft.core.errors import ConfigError

Over = Literal["rows", "worst"]


class GroupAccuracy(Metric):
    """Accuracy over all rows, or in the group where it is lowest; groups without rows do not count.

    Args:
        num_groups: Number of groups.
        over: ``rows`` or ``worst``.

    Example:
        >>> metric = GroupAccuracy(num_groups=2, over="worst")
        >>> logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
        >>> metric.update(logits, torch.tensor([[0, 0], [1, 0], [1, 1]]))  # one of two right, one of one
        >>> metric.compute()
        tensor(0.5000)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    right: Tensor
    rows: Tensor

    def __init__(self, num_groups: int, over: Over = "worst") -> None:
        super().__init__()
        if num_groups < 1:
            raise ConfigError("num_groups", num_groups, "at least 1")
        if over not in get_args(Over):
            raise ConfigError("over", over, ", ".join(get_args(Over)))
        self.over = over
        self.add_state("right", torch.zeros(num_groups, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("rows", torch.zeros(num_groups, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Add rows.

        Args:
            predictions: Logits of shape (rows, classes).
            targets: Label and group of each row, shape (rows, 2).
        """
        labels, groups = targets.unbind(1)
        self.rows += torch.bincount(groups, minlength=len(self.rows))
        self.right += torch.bincount(groups[predictions.argmax(-1) == labels], minlength=len(self.rows))

    def compute(self) -> Tensor:
        """The share of correct rows."""
        if self.over == "rows":
            return self.right.sum() / self.rows.sum()
        shares = self.right / self.rows
        return shares[self.rows > 0].min() if self.rows.any() else shares[0]
