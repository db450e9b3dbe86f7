"""Start subspaces from earlier measurements."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lit_ft.curvature.eigensolver import Eigenpairs, dots


class WarmSubspace:
    """Keeps the subspaces of the last two measurements along a training run, and picks the better start.

    At the edge of stability the weights swing with period two, so the eigenvectors of two steps ago are often nearer
    than those of the last step (this saves about two products per measurement); the last three leading vectors show
    which of the two starts is better. Memory: ``2 (k + guards) + k`` rows.

    See also: :func:`~lit_ft.curvature.eigenvalues.hessian_eigenvalues`, which takes it as ``warm``.

    Example:
        >>> from lit_ft.core.curvature import hessian_eigenvalues
        >>> module, batches, warm = nn.Linear(50, 1, bias=False), [torch.arange(50.0)], WarmSubspace()
        >>> loss = lambda module, scales: (scales * module.weight.square()).sum() / 2
        >>> cold = hessian_eigenvalues(module, batches, loss=loss, warm=warm)
        >>> hessian_eigenvalues(module, batches, loss=loss, warm=warm).products < cold.products
        True
    """

    def __init__(self) -> None:
        self.subspaces: list[Tensor] = []  # the newest first
        self.leading: list[Tensor] = []

    def remember(self, pairs: Eigenpairs) -> None:
        """Record a measurement."""
        self.subspaces = [pairs.subspace, *self.subspaces[:1]]
        self.leading = [pairs.vectors, *self.leading[:2]]

    def rows(self, gradient: Tensor) -> Tensor:
        """Rows that span the start of the next measurement: a known subspace and the gradient."""
        if not self.subspaces or self.subspaces[0].shape[1] != len(gradient):  # parameters were frozen or unfrozen
            self.subspaces, self.leading = [], []
            return gradient[None]
        newest = 0
        if len(self.leading) == 3:
            last, before = (float(dots(self.leading[0], other).square().sum()) for other in self.leading[1:])
            newest = int(before > last)
        return torch.cat([self.subspaces[newest], gradient[None].to(self.subspaces[newest])])

    def state_dict(self) -> dict[str, Any]:
        """Plain data and tensors."""
        return {"subspaces": list(self.subspaces), "leading": list(self.leading)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        self.subspaces, self.leading = list(state["subspaces"]), list(state["leading"])
