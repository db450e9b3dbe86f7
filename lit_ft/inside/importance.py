"""How evenly rows contribute to the gradient."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


def lorenz_curve(weights: Tensor) -> Tensor:
    """The share of the total weight of the k lightest rows, for k = 0 to n; shape (n + 1,).

    Args:
        weights: Weights of at least 0, not all 0; shape (n,).

    Example:
        >>> lorenz_curve(torch.tensor([3.0, 1.0]))
        tensor([0.0000, 0.2500, 1.0000], dtype=torch.float64)
    """
    ascending = weights.double().sort().values
    return torch.cat([ascending.new_zeros(1), ascending.cumsum(0) / ascending.sum()])


def gini(weights: Tensor) -> Tensor:
    r"""Twice the area between the diagonal and the Lorenz curve: 0 for equal weights, :math:`1 - 1/n` for a single one.

    Args:
        weights: Weights of at least 0; shape (n,). If all are 0 they count as equal.

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

    The gradient of the cross-entropy with respect to the logit of the true class is minus that weight; for two classes
    it is :math:`\sigma(-y f(x))`, and the whole gradient is proportional to it. According to the paper, weights are
    more even at SAM's perturbed point than at w: measure both (:func:`lit_ft.flatness.perturbation.perturbed`).

    Keeps one number per row.

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
        self.weights.append(weights.to(self.dtype))  # the type that a process without rows contributes

    def compute(self) -> Tensor:
        """The coefficient, in [0, 1); NaN without rows."""
        if not len(self.weights):
            return torch.tensor(torch.nan)
        return gini(dim_zero_cat(self.weights)).float()
