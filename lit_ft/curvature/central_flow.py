"""The smooth path that gradient descent follows on average when it oscillates at the edge of stability."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lit_ft.core.errors import ConfigError
from lit_ft.curvature.eigensolver import leading_eigenpairs
from lit_ft.curvature.objective import Objective
from lit_ft.curvature.operators import Hessian
from lit_ft.curvature.warm_subspace import WarmSubspace


class CentralFlow:
    r"""Gradient flow with the oscillation of gradient descent averaged into it, for one unstable direction.

    .. math:: \dot w = -\eta\,[\nabla L(w) + \tfrac12 \sigma^2 \nabla S(w)], \quad
        \sigma^2 = \max(0, 2 \langle \nabla S, -\nabla L\rangle / |\nabla S|^2)

    (:math:`\sigma^2 = 0` while :math:`S < 2/\eta`)

    with S the sharpness and :math:`\nabla S = \nabla_w (u^\top H u)` at its fixed eigenvector u. :math:`\sigma^2` is
    the variance of the oscillation along u that keeps the sharpness from growing; it needs no solver. The flow follows
    the authors' theory while a single eigenvalue is at the edge. Time is measured in steps of gradient descent.

    Cost of a substep: one gradient, about 5 Hessian products, one third derivative along u.

    Args:
        objective: The full-batch loss.
        rate: The learning rate :math:`\eta` of the gradient descent that is modelled.
        substeps: Euler steps for one step of gradient descent; stable up to this many times :math:`2/\eta`.
        central: False gives plain gradient flow, for comparison.
        critical: The direction counts as unstable from this share of :math:`2/\eta` on.

    Source: Cohen, Damian, Talwalkar, Kolter, Lee, Understanding Optimization in Deep Learning with Central Flows, 2024,
    arXiv 2410.24206. Deviation: one direction, in closed form; the authors solve a semidefinite complementarity problem
    for several.

    Example:
        >>> module = nn.Linear(1, 1, bias=False)
        >>> module.weight.data = torch.ones(1, 1)
        >>> objective = Objective(module, [None], loss=lambda module, _: module.weight.square().sum() / 2)
        >>> flow = CentralFlow(objective, rate=0.1)
        >>> flow.step()  # four substeps of a quarter each: (1 - 0.025) ** 4
        >>> module.weight.data, round(flow.sharpness, 3)
        (tensor([[0.9037]]), 1.0)
    """

    def __init__(
        self, objective: Objective, rate: float, substeps: int = 4, central: bool = True, critical: float = 1.0
    ) -> None:
        if not rate > 0:
            raise ConfigError("rate", rate, "a positive learning rate")
        if substeps < 2:
            raise ConfigError("substeps", substeps, "2 or more: one step of the flow would be gradient descent itself")
        self.objective, self.rate, self.substeps = objective, rate, substeps
        self.central, self.critical = central, critical
        self.sharpness = self.variance = self.loss = 0.0
        self._warm = WarmSubspace()

    def step(self) -> None:
        """Move the parameters as far as one step of gradient descent; sets ``loss``, ``sharpness``, ``variance``."""
        for _ in range(self.substeps):
            with self.objective.evaluating():
                direction = self._velocity()
            with torch.no_grad():
                pieces = self.objective.shaped(direction)
                for parameter, piece in zip(self.objective.parameters, pieces, strict=True):
                    parameter.add_(piece, alpha=self.rate / self.substeps)

    def _velocity(self) -> Tensor:
        hessian = Hessian(self.objective)
        gradient = hessian.gradient()
        self.loss = hessian.loss or 0.0
        if not self.central:
            return -gradient
        pairs = leading_eigenpairs(hessian, self._warm.rows(gradient), 1, 1e-4)
        self._warm.remember(pairs)
        self.sharpness, self.variance = float(pairs.values[0]), 0.0
        if self.sharpness < self.critical * 2 / self.rate:
            return -gradient
        rise = sharpness_gradient(self.objective, pairs.vectors[0])
        self.variance = max(0.0, 2 * float(rise @ -gradient) / float(rise @ rise))
        return -(gradient + 0.5 * self.variance * rise)


def sharpness_gradient(objective: Objective, vector: Tensor) -> Tensor:
    r""":math:`\nabla_w (u^\top H(w) u)` at fixed u ``[size]``: the gradient of an eigenvalue at its unit eigenvector.

    Args:
        objective: The loss; the caller is inside ``objective.evaluating()``.
        vector: u.

    Example:
        >>> module = nn.Linear(1, 1, bias=False)
        >>> objective = Objective(module, [None], loss=lambda module, _: (module.weight**3).sum() / 6)
        >>> with objective.evaluating():
        ...     sharpness_gradient(objective, torch.ones(1))  # the second derivative is w
        tensor([1.])
    """
    total = torch.zeros(objective.size, dtype=objective.dtype, device=objective.device)
    pieces = objective.shaped(vector)
    for share, loss in objective.losses():
        slope = _directional(loss, objective.parameters, pieces)
        curvature = _directional(slope, objective.parameters, pieces)
        if curvature.requires_grad:
            third = torch.autograd.grad(curvature, objective.parameters, allow_unused=True)
            total += share * objective.flat(third)
    return objective.sum_over_ranks(total)


def _directional(value: Tensor, parameters: Sequence[nn.Parameter], pieces: Sequence[Tensor]) -> Tensor:
    """The derivative of a scalar along a direction, with a graph."""
    if not value.requires_grad:
        return value.new_zeros(())
    gradients = torch.autograd.grad(value, list(parameters), create_graph=True, allow_unused=True)
    terms = [(g * v).sum() for g, v in zip(gradients, pieces, strict=True) if g is not None]
    return torch.stack(terms).sum() if terms else value.new_zeros(())
