"""A linear classifier on fixed features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class LinearProbe:
    """A fitted multinomial logistic regression.

    Args:
        weight: Shape (classes, width), for features as they are given.
        bias: Shape (classes,).

    See also: :func:`fit_linear_probe`.

    Example:
        >>> probe = LinearProbe(weight=torch.tensor([[-1.0], [1.0]]), bias=torch.zeros(2))
        >>> probe.predict(torch.tensor([[-2.0], [3.0]]))
        tensor([0, 1])
    """

    weight: Tensor
    bias: Tensor

    def predict(self, features: Tensor) -> Tensor:
        """Class numbers of shape (rows,)."""
        return (features.to(self.weight) @ self.weight.T + self.bias).argmax(-1)

    def accuracy(self, features: Tensor, labels: Tensor) -> float:
        """Share of the rows that are classified correctly."""
        return (self.predict(features) == labels.to(self.weight.device)).double().mean().item()


@torch.inference_mode(False)  # the trainer validates and tests inside of it, and there nothing has a gradient
@torch.no_grad()
def fit_linear_probe(features: Tensor, labels: Tensor, num_classes: int, penalty: float = 1.0) -> LinearProbe:
    r"""Fit :math:`\min_{W, b} \sum_i -\log p(y_i \mid W z_i + b) + \frac{\lambda}{2} \lVert W \rVert^2`.

    Here z are the features with mean 0 and variance 1 over the rows. Deterministic: starts at zero, uses no random
    numbers, minimises in float64 with L-BFGS until the gradient is small. With n rows it is scikit-learn's
    ``LogisticRegression(C=1/penalty)`` on standardised features.

    Args:
        features: Shape (rows, width).
        labels: Class numbers of shape (rows,).
        num_classes: Number of classes.
        penalty: :math:`\lambda`, 0 or more; the loss is a sum over rows, so it counts as one row does.

    Example:
        >>> features, labels = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]]), torch.tensor([0, 0, 1, 1])
        >>> probe = fit_linear_probe(features, labels, num_classes=2)
        >>> probe.accuracy(features, labels), probe.predict(torch.tensor([[0.1]]))
        (1.0, tensor([1]))
    """
    x = features.detach().to(torch.float64, copy=True)
    y = labels.to(x.device, copy=True)
    mean, scale = x.mean(0), x.std(0, correction=0).clamp(min=1e-9)
    z = (x - mean) / scale
    weight = torch.zeros(num_classes, z.shape[1], dtype=z.dtype, device=z.device, requires_grad=True)
    bias = torch.zeros(num_classes, dtype=z.dtype, device=z.device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=500, tolerance_grad=1e-7, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        with torch.enable_grad():
            loss = F.cross_entropy(z @ weight.T + bias, y) + penalty / (2 * len(z)) * weight.square().sum()
            loss.backward()
        return loss

    optimizer.step(closure)
    given = weight.detach() / scale
    return LinearProbe(given, bias.detach() - given @ mean)
