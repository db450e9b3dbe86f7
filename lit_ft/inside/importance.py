"""How evenly rows pull at the weights."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


def lorenz_curve(weights: Tensor) -> Tensor:
    """The share of the total that the lightest k rows have, for k = 0 to n; shape (n + 1,).

    Args:
        weights: At least 0, not all 0; shape (n,).

    Example:
        >>> lorenz_curve(torch.tensor([3.0, 1.0]))
        tensor([0.0000, 0.2500, 1.0000], dtype=torch.float64)
    """
    ascending = weights.double().sort().values
    return torch.cat([ascending.new_zeros(1), ascending.cumsum(0) / ascending.sum()])


def gini(weights: Tensor) -> Tensor:
    r"""Twice the area between the diagonal and the Lorenz curve: 0 for equal weights, :math:`1 - 1/n` for a single one.

    Args:
        weights: At least 0; shape (n,). All 0 counts as equal.

    Example:
        >>> gini(torch.tensor([0.0, 0.0, 0.0, 5.0])), gini(torch.ones(4))
        (tensor(0.7500, dtype=torch.float64), tensor(0., dtype=torch.float64))
    """
    if not weights.any():
        return torch.zeros((), dtype=torch.float64, device=weights.device)
    curve = lorenz_curve(weights)
    return 1 - (curve[1:] + curve[:-1]).sum() / len(weights)


class ImportanceLorenz(Metric):
    r"""Gini coefficient of the rows' importance weights :math:`1 - p(y_i \mid x_i)`.

    The gradient of the cross-entropy by the logit of the true class is minus that weight; for two classes it is
    :math:`\sigma(-y f(x))`, and the whole gradient is proportional to it. The paper says that weights at SAM's
    perturbed point are more even than at w: measure both (:func:`lit_ft.flatness.perturbation.perturbed`).

    Keeps one number a row.

    Source: "Sharpness-aware minimization enhances feature quality via balanced learning", 2024.

    See also: :func:`gini`.

    Example:
        >>> metric = ImportanceLorenz()
        >>> metric.update(torch.tensor([[0.0, 0.0], [100.0, 0.0]]), torch.tensor([0, 0]))  # weights 0.5 and 0
        >>> metric.compute()
        tensor(0.5000)
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    weights: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("weights", [], dist_reduce_fx="cat")

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Add rows.

        Args:
            logits: Shape (rows, classes).
            targets: True classes, shape (rows,).
        """
        shares = logits.detach().double().softmax(-1)
        weights = 1 - shares.gather(1, targets[:, None])[:, 0]
        self.weights.append(weights.to(self.dtype))  # of this type is what a process without rows hands over

    def compute(self) -> Tensor:
        """The coefficient, in [0, 1); not a number where there are no rows."""
        if not len(self.weights):
            return torch.tensor(torch.nan)
        return gini(dim_zero_cat(self.weights)).float()
