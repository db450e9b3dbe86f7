"""Perplexity over tokens with weights."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class TokenPerplexity(Metric):
    r"""Perplexity :math:`\exp(\sum_t|w_t|\ell_t/\sum_t|w_t|)` from mean losses of batches and their summed weights.

    Example:
        >>> metric = TokenPerplexity()
        >>> metric.update(torch.tensor(2.0).log(), torch.tensor(3.0))  # three tokens of probability 1 / 2
        >>> metric.update(torch.tensor(8.0).log(), torch.tensor(3.0))
        >>> metric.compute()
        tensor(4.)
    """

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("weight", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.total: Tensor
        self.weight: Tensor

    def update(self, mean_loss: Tensor, weight: Tensor) -> None:
        """Add a batch.

        Args:
            mean_loss: Mean negative log-likelihood of its targets.
            weight: Their summed weight.
        """
        weight = weight.double()
        self.total += torch.where(weight > 0, mean_loss.double() * weight, 0.0)
        self.weight += weight

    def compute(self) -> Tensor:
        """The perplexity, as float32."""
        return (self.total / self.weight).exp().float()
