"""Leading eigenpairs of a symmetric operator, started from an approximate subspace."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lit_ft.curvature.operators import Operator

Which = Literal["largest", "magnitude"]
CHUNK = 1 << 14  # numbers of a row that are summed in the type of the weights
GUARD_TOL, COLD_GUARD_TOL = 3e-2, 1e-3


@dataclass
class Eigenpairs:
    r"""Leading eigenpairs, and how they were computed.

    Args:
        values: Eigenvalues ``[k]`` in float64, the leading one first.
        vectors: Unit eigenvectors ``[k, size]`` as flat rows.
        errors: Estimated errors of the values ``[k]``, absolute.
        products: Number of matrix-vector products that were used.
        quotient: :math:`v^\top A v / v^\top v` for the last row v of the start: the curvature along the gradient if
            that is the row, at no extra cost.
        converged: Whether each error is below ``tol`` times the leading eigenvalue's magnitude.
        subspace: A start for the next computation ``[k + guards + 1, size]``: Ritz vectors, and the product with the
            next Ritz vector, which over a few computations finds eigenvalues that rise from below.

    Example:
        >>> from lit_ft.core.curvature import hessian_eigenvalues
        >>> module = nn.Linear(2, 1, bias=False)
        >>> loss = lambda module, scales: (scales * module.weight.square()).sum() / 2
        >>> pairs = hessian_eigenvalues(module, [torch.tensor([1.0, 3.0])], loss=loss)
        >>> pairs.values.round(decimals=3), pairs.vectors.abs().round(decimals=3), pairs.converged
        (tensor([3.], dtype=torch.float64), tensor([[0., 1.]]), True)
    """

    values: Tensor
    vectors: Tensor
    errors: Tensor
    products: int
    quotient: float
    converged: bool
    subspace: Tensor


def dots(left: Tensor, right: Tensor) -> Tensor:
    """``left @ right.T`` in chunks that are summed in float64; casting whole rows costs more than the product."""
    total = torch.zeros(len(left), len(right), dtype=torch.float64, device=left.device)
    for a, b in zip(left.split(CHUNK, dim=1), right.split(CHUNK, dim=1), strict=True):
        total += a @ b.T
    return total


def orthonormal(rows: Tensor, basis: Tensor) -> Tensor:
    """The components of ``rows`` orthogonal to ``basis``, orthonormalised; rows inside its span are left out."""
    kept: list[Tensor] = []
    for row in rows:
        size = row.norm()
        if not torch.isfinite(size) or size == 0:
            continue
        row = row / size
        for _ in range(2):  # twice is enough
            for against in (basis, torch.stack(kept) if kept else basis[:0]):
                if len(against):
                    row = row - (dots(row[None], against).to(row.dtype) @ against)[0]
            size = row.norm()
            if size < 100 * torch.finfo(row.dtype).eps:
                break
            row = row / size
        else:
            kept.append(row)
    return torch.stack(kept) if kept else basis[:0]


class Rows:
    """Rows in a growing buffer: copying the basis of a large network at every step costs more than the products.

    Args:
        rows: The first rows.
        most: Largest number of rows; memory is allocated in steps.
    """

    def __init__(self, rows: Tensor, most: int) -> None:
        self._buffer, self._count, self._most = rows.new_empty(0, rows.shape[1]), 0, most
        self.append(rows)

    @property
    def all(self) -> Tensor:
        """A view of the rows so far."""
        return self._buffer[: self._count]

    def append(self, rows: Tensor) -> Tensor:
        """Add rows, and return all."""
        needed = self._count + len(rows)
        if needed > len(self._buffer):
            larger = self._buffer.new_empty(max(needed, min(2 * needed, self._most)), self._buffer.shape[1])
            larger[: self._count] = self.all
            self._buffer = larger
        self._buffer[self._count : needed] = rows
        self._count = needed
        return self.all

    def replace(self, rows: Tensor) -> Tensor:
        """Replace all rows, and return them."""
        self._count = 0
        return self.append(rows)


def leading_eigenpairs(
    operator: Operator,
    start: Tensor,
    k: int = 1,
    tol: float = 1e-4,
    which: Which = "largest",
    guards: int = 2,
    max_basis: int = 48,
    max_products: int = 1000,
    seed: int = 0,
) -> Eigenpairs:
    r"""Rayleigh-Ritz on a subspace that grows by the residual of the first pair that has not converged.

    The subspace starts from known directions (the Ritz vectors of an earlier, similar operator, the gradient). The
    error of a Ritz value :math:`\theta` with residual r is estimated by :math:`\min(|r|, |r|^2/\mathrm{gap})`, where
    the gap is the distance to the first Ritz value after the wanted ones and their guards. From a cold start it is the
    distance to the last guard, as a cluster of eigenvalues may go on after it. The wanted values must reach ``tol``,
    the guards ``GUARD_TOL``: otherwise the solver can stop at the second eigenvector with a tiny residual and an error
    of percents (measured: 4 %). At ``max_basis`` rows it restarts from the leading Ritz vectors.

    Args:
        operator: The matrix.
        start: Rows that span the first subspace. With fewer than ``k + guards`` rows the start is cold: random rows
            and their products fill it up, and the guards, one more of them, must reach ``COLD_GUARD_TOL``.
        k: Number of pairs.
        tol: Error of the values, relative to the magnitude of the leading one.
        which: Largest algebraic, or largest magnitude.
        guards: Additional pairs that are tracked, so that a rising eigenvalue is not missed.
        max_basis: Largest number of basis rows; their products need as much memory again.
        max_products: Number of products after which to stop without convergence.
        seed: Seed of random rows, the same on all ranks.

    See also: :func:`~lit_ft.curvature.eigenvalues.hessian_eigenvalues`, for the Hessian of a module.

    Example:
        >>> from lit_ft.core.curvature import Hessian, Objective
        >>> loss = lambda module, scales: (scales * module.weight.square()).sum() / 2
        >>> objective = Objective(nn.Linear(2, 1, bias=False), [torch.tensor([3.0, 1.0])], loss)
        >>> with objective.evaluating():
        ...     leading_eigenpairs(Hessian(objective), torch.ones(1, 2), k=2).values.round(decimals=3)
        tensor([3., 1.], dtype=torch.float64)
    """
    before, cold = operator.products, len(start) < k + guards
    wanted = min(k + guards + cold, operator.size)
    max_basis = min(max(max_basis, 2 * wanted + 2), operator.size)
    generator = torch.Generator().manual_seed(seed)

    def random(count: int) -> Tensor:
        return torch.randn(count, operator.size, generator=generator).to(operator.device, operator.dtype)

    start = start.to(operator.device, operator.dtype)
    basis = orthonormal(start[:max_basis], start[:0])
    while len(basis) < wanted:
        basis = torch.cat([basis, orthonormal(random(wanted - len(basis)), basis)])
    allowed = torch.full((wanted,), max(tol, COLD_GUARD_TOL if cold else GUARD_TOL), dtype=torch.float64)
    allowed[:k] = tol
    allowed = allowed.to(operator.device)
    image = operator.apply(basis)
    more = orthonormal(image, basis)[: max_basis - len(basis)] if cold else basis[:0]
    if len(more):  # random rows multiplied once show what single residuals pass by: all copies of an eigenvalue
        basis, image = torch.cat([basis, more]), torch.cat([image, operator.apply(more)])
    stored, mapped = Rows(basis, max_basis), Rows(image, max_basis)
    basis, image = stored.all, mapped.all
    vectors, residuals = (torch.empty_like(basis[:wanted]) for _ in range(2))
    projected = dots(basis, image)
    inside = dots(start[-1:], basis)
    quotient = float((inside @ projected @ inside.T) / (inside @ inside.T))
    while True:
        theta, rotation = torch.linalg.eigh((projected + projected.T) / 2)
        order = (theta.abs() if which == "magnitude" else theta).argsort(descending=True)
        theta, rotation = theta[order], rotation[:, order]
        leading = rotation[:, :wanted].T.to(basis.dtype).contiguous()
        torch.mm(leading, basis, out=vectors)
        torch.mm(leading, image, out=residuals)
        for residual, vector, value in zip(residuals, vectors, theta.tolist(), strict=False):
            residual.sub_(vector, alpha=value)
        errors = _errors(theta, dots(residuals, residuals).diagonal().sqrt(), which, wanted - cold)
        open_pairs = (errors > allowed * theta.abs().max()).nonzero().flatten()
        done = len(basis) == operator.size or not len(open_pairs)
        if done or operator.products - before >= max_products:
            spent = operator.products - before
            scout = rotation[:, k + guards : k + guards + 1].T.to(basis.dtype) @ image  # a power step at no extra cost
            subspace = torch.cat([vectors[: k + guards], scout])
            return Eigenpairs(theta[:k], vectors[:k].clone(), errors[:k], spent, quotient, done, subspace)
        grow = residuals[open_pairs[:1]] if operator.single else residuals[open_pairs]
        if len(basis) + len(grow) > max_basis:  # thick restart: the leading Ritz vectors keep what they have learnt
            keep = rotation[:, : max_basis // 2].T.to(basis.dtype)
            basis, image = stored.replace(keep @ basis), mapped.replace(keep @ image)
            projected = dots(basis, image)
        new = orthonormal(grow, basis)
        if not len(new):
            new = orthonormal(random(1), basis)
        image_new = operator.apply(new)
        cross = dots(basis, image_new)
        projected = torch.cat(
            [torch.cat([projected, cross], dim=1), torch.cat([cross.T, dots(new, image_new)], dim=1)], dim=0
        )
        basis, image = stored.append(new), mapped.append(image_new)


def _errors(theta: Tensor, residuals: Tensor, which: Which, behind: int) -> Tensor:
    size = theta.abs() if which == "magnitude" else theta
    gaps = (size[: len(residuals)] - size[min(behind, len(size) - 1)]).clamp(min=1e-300)
    return torch.minimum(residuals, residuals**2 / gaps)
