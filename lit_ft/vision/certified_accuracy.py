"""Accuracy that is certified against small changes of the input."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_ft.core.errors import ConfigError


class CertifiedAccuracy(Metric):
    """Share of the rows that are classified correctly and certified to at least a radius.

    At radius 0 it is the share of correct rows without abstention.

    Source: J. Cohen, E. Rosenfeld, J. Z. Kolter, "Certified Adversarial Robustness via Randomized Smoothing", 2019,
    arXiv 1902.02918.

    Args:
        radius: L2 radius in the units of the input, at least 0.

    See also: :class:`~lit_ft.vision.smoothed_classifier.SmoothedClassifier`, which certifies.

    Example:
        >>> metric = CertifiedAccuracy(radius=0.5)
        >>> metric.update(torch.tensor([1, 1, 2]), torch.tensor([0.9, 0.3, 0.9]), targets=torch.tensor([1, 1, 0]))
        >>> metric.compute()  # the second radius is too small, the third class is wrong
        tensor(0.3333)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    right: Tensor
    rows: Tensor

    def __init__(self, radius: float = 0.0) -> None:
        super().__init__()
        if not 0 <= radius < float("inf"):
            raise ConfigError("radius", radius, "a finite number of at least 0")
        self.radius = radius
        self.add_state("right", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("rows", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, labels: Tensor, radii: Tensor, targets: Tensor) -> None:
        """Add rows.

        Args:
            labels: Certified classes, -1 for abstention; shape (rows,).
            radii: Certified radii, shape (rows,).
            targets: True classes, shape (rows,).
        """
        self.right += ((labels == targets) & (radii >= self.radius)).sum()
        self.rows += targets.numel()

    def compute(self) -> Tensor:
        """The certified accuracy."""
        return self.right / self.rows
