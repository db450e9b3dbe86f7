"""Trace and spectral density of an operator."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_ft.core.errors import ConfigError
from lit_ft.curvature.eigensolver import dots, orthonormal
from lit_ft.curvature.operators import Operator


def _signs(operator: Operator, count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (count, operator.size), generator=generator) * 2 - 1
    return signs.to(operator.device, operator.dtype)


def hutch_plus_plus(operator: Operator, products: int = 30, seed: int = 0) -> float:
    r"""The trace by Hutch++: exact on the range of a third of the products, Hutchinson's estimate on the rest.

    :math:`tr(Q^\top A Q) + \frac1m \sum_i g_i^\top (I-QQ^\top) A (I-QQ^\top) g_i`, with Q an orthonormal basis of AS.
    Meyer, Musco, Musco, Woodruff, Hutch++: Optimal Stochastic Trace Estimation, 2020, arXiv 2010.09649.

    Args:
        operator: The matrix; for a flat spectrum nothing is gained over Hutchinson's estimate.
        products: Number of products, at least 3.
        seed: Seed of the random signs.

    Example:
        >>> from lit_ft.core.curvature import Hessian, Objective
        >>> loss = lambda module, scales: (scales * module.weight.square()).sum() / 2
        >>> objective = Objective(nn.Linear(3, 1, bias=False), [torch.tensor([5.0, 0.0, 0.0])], loss)
        >>> with objective.evaluating():
        ...     round(hutch_plus_plus(Hessian(objective), products=3), 3)  # exact, as the rank is 1
        5.0
    """
    if products < 3:
        raise ConfigError("products", products, "3 or more")
    third = min(products // 3, operator.size)
    signs = _signs(operator, 2 * third, seed)
    basis = orthonormal(operator.apply(signs[:third]), signs[:0])
    rest = signs[third:] - (dots(signs[third:], basis).to(operator.dtype) @ basis)
    captured = dots(basis, operator.apply(basis)).diagonal().sum() if len(basis) else torch.zeros(())
    remaining = dots(rest, operator.apply(rest)).diagonal().sum() / third
    return float(captured + remaining)


@dataclass
class SpectralDensity:
    """Nodes and weights: the weighted sum of ``f(nodes)`` estimates the mean of f over all eigenvalues.

    Args:
        nodes: Ritz values ``[runs * steps]`` in float64.
        weights: Their weights, which add up to 1.

    Example:
        >>> density = SpectralDensity(nodes=torch.tensor([0.0]), weights=torch.tensor([1.0]))
        >>> density.on(torch.tensor([-1.0, 0.0, 1.0]), width=1.0)
        tensor([0.2420, 0.3989, 0.2420], dtype=torch.float64)
    """

    nodes: Tensor
    weights: Tensor

    def on(self, grid: Tensor, width: float) -> Tensor:
        """The density on a grid, each node widened to a normal distribution of standard deviation ``width``."""
        normal = torch.distributions.Normal(self.nodes, width)
        return (normal.log_prob(grid.double()[:, None]).exp() * self.weights).sum(1)


def spectral_density(operator: Operator, steps: int = 40, runs: int = 1, seed: int = 0) -> SpectralDensity:
    """The spectral density by stochastic Lanczos quadrature.

    Each run is a Lanczos process with full reorthogonalisation from a random vector; the eigenvalues of its tridiagonal
    matrix (``eigh``) are the nodes, the squared first entries of its eigenvectors the weights.
    Ghorbani, Krishnan, Xiao, An Investigation into Neural Net Optimization via Hessian Eigenvalue Density, 2019,
    arXiv 1901.10159.

    Args:
        operator: The matrix.
        steps: Products per run, and rows kept in memory.
        runs: Independent runs.
        seed: Seed of the random vectors.

    See also: :func:`hutch_plus_plus`, for the sum of the eigenvalues alone.

    Example:
        >>> from lit_ft.core.curvature import Hessian, Objective
        >>> loss = lambda module, scales: (scales * module.weight.square()).sum() / 2
        >>> objective = Objective(nn.Linear(2, 1, bias=False), [torch.tensor([3.0, 1.0])], loss)
        >>> with objective.evaluating():
        ...     spectral_density(Hessian(objective), steps=2).nodes.round(decimals=3)
        tensor([1., 3.], dtype=torch.float64)
    """
    if steps < 1 or runs < 1:
        raise ConfigError("steps, runs", (steps, runs), "1 or more")
    nodes, weights = [], []
    generator = torch.Generator().manual_seed(seed)
    for _ in range(runs):
        start = torch.randn(1, operator.size, generator=generator).to(operator.device, operator.dtype)
        basis = start / start.norm()
        images = operator.apply(basis)
        while len(basis) < min(steps, operator.size):
            new = orthonormal(images[-1:], basis)
            if not len(new):
                break  # the Krylov space is complete: the quadrature is exact for this vector
            basis, images = torch.cat([basis, new]), torch.cat([images, operator.apply(new)])
        projected = dots(basis, images)
        theta, rotation = torch.linalg.eigh((projected + projected.T) / 2)
        nodes.append(theta)
        weights.append(rotation[0].square() / runs)
    return SpectralDensity(torch.cat(nodes), torch.cat(weights))
