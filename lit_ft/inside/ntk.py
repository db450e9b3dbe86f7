r"""The empirical neural tangent kernel: what a network would learn if it stayed linear in its weights.

For a small step from weights :math:`\theta_0`, :math:`f(x;\theta)\approx f_0(x)+\nabla f_0(x)\cdot(\theta-\theta_0)`.
A step of gradient descent then moves :math:`f(x)` by :math:`-\eta\sum_j K(x,x_j)\chi_j` with the kernel
:math:`K(x,x_j)=\langle\nabla f_0(x),\nabla f_0(x_j)\rangle` and :math:`\chi_j=\partial\ell_j/\partial f(x_j)`; a step
along the sign of each row's gradient moves it by the same with
:math:`K(x,x_j)=\langle\nabla f_0(x),\operatorname{sign}\nabla f_0(x_j)\rangle`.

Source: A kernel-based view of language model fine-tuning, 2022 (C2); princeton-nlp/LM-Kernel-FT.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from lit_ft.core.errors import ConfigError

Kind = Literal["sgd", "sign", "asymmetric"]
KINDS = ("sgd", "sign", "asymmetric")


def row_tangents(outputs: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of the outputs of one row with respect to each parameter, shapes (outputs, entries).

    Args:
        outputs: Outputs of one row, of any shape, with their graph.
        parameters: Parameters to differentiate by; the gradient of one that is not used is 0.

    Example:
        >>> weight = torch.tensor([1.0, 1.0], requires_grad=True)
        >>> row_tangents((weight * torch.tensor([2.0, 3.0])).sum(), [weight])
        [tensor([[2., 3.]])]
    """
    found = []
    for output in outputs.flatten():
        each = torch.autograd.grad(output, parameters, retain_graph=True, allow_unused=True)
        found.append([torch.zeros_like(p) if g is None else g for g, p in zip(each, parameters, strict=True)])
    return [torch.stack(parts).flatten(1).detach() for parts in zip(*found, strict=True)]


class EmpiricalNTK:
    """The kernel of rows with themselves and with others, at the weights at the time of construction.

    Keeps the gradients of its rows: rows x outputs x entries of ``parameters``. Products are summed in float64. The
    function must be deterministic (eval mode), and its weights must have the same values again when ``against`` or
    ``predict`` is called.

    Args:
        function: Maps one row to its outputs, with a graph.
        rows: Inputs of ``function``, one at a time.
        parameters: The weights to differentiate by, for example those of an adapter.
        kind: ``sgd``; ``sign``, signs of both gradients; or ``asymmetric``, signs of the gradients of ``rows`` alone,
            as in a step of signed gradient descent (Adam, early in training). Only the first two are symmetric.

    See also: :class:`KernelPredictor`.

    Example:
        >>> weight = torch.ones(2, requires_grad=True)
        >>> rows = torch.tensor([[1.0, 0.0], [1.0, 2.0]])
        >>> kernel = EmpiricalNTK(lambda row: (weight * row).sum(), rows, [weight])
        >>> kernel.matrix()[:, 0, :, 0]  # of a linear function: the products of the rows
        tensor([[1., 1.],
                [1., 5.]], dtype=torch.float64)
    """

    def __init__(
        self, function: Callable[[Any], Tensor], rows: Iterable[Any], parameters: Sequence[Tensor], kind: Kind = "sgd"
    ) -> None:
        if kind not in KINDS:
            raise ConfigError("kind", kind, ", ".join(KINDS))
        self.function, self.parameters, self.kind = function, list(parameters), kind
        each, values = [], []
        for row in rows:
            outputs = function(row).flatten()
            each.append(row_tangents(outputs, self.parameters))
            values.append(outputs.detach())
        if not each:
            raise ConfigError("rows", 0, "at least one row")
        self.tangents = [torch.stack(parts) for parts in zip(*each, strict=True)]
        self.values = torch.stack(values)

    def _product(self, tangents: Sequence[Tensor]) -> Tensor:
        total = torch.zeros((), dtype=torch.float64, device=self.values.device)
        for other, own in zip(tangents, self.tangents, strict=True):
            left = other.sign() if self.kind == "sign" else other
            right = own if self.kind == "sgd" else own.sign()
            total = total + torch.einsum("ap,nbp->anb", left.double(), right.double())
        return total

    def matrix(self) -> Tensor:
        """The kernel between its own rows, shape (rows, outputs, rows, outputs), float64."""
        return torch.stack([self._product([t[i] for t in self.tangents]) for i in range(len(self.values))])

    def against(self, rows: Iterable[Any]) -> tuple[Tensor, Tensor]:
        """The kernel of other rows against its own, (others, outputs, rows, outputs), and their outputs."""
        kernels, values = [], []
        for row in rows:
            outputs = self.function(row).flatten()
            kernels.append(self._product(row_tangents(outputs, self.parameters)))
            values.append(outputs.detach())
        return torch.stack(kernels), torch.stack(values)

    def change(self, weights: Sequence[Tensor]) -> Tensor:
        """The change of the linearised network's outputs on its rows if the weights change by ``weights``.

        Args:
            weights: A difference for each parameter, of its shape.

        Returns:
            Shape (rows, outputs), float64.
        """
        parts = [t.double() @ w.flatten().double() for t, w in zip(self.tangents, weights, strict=True)]
        return torch.stack(parts).sum(0)

    def drift(self, rows: Iterable[Any]) -> float:
        """The relative change of the gradients of its rows, which are given again: norm of the change over the norm.

        0 if the gradients were and are 0; infinite if they were 0 and have changed.
        """
        moved = norm = 0.0
        for i, row in enumerate(rows):
            for now, own in zip(row_tangents(self.function(row), self.parameters), self.tangents, strict=True):
                moved += float((now - own[i]).double().square().sum())
                norm += float(own[i].double().square().sum())
        return (moved / norm) ** 0.5 if norm else (torch.inf if moved else 0.0)


class KernelPredictor:
    r"""Outputs of the linearised network after learning its rows: :math:`f_0(x)+\sum_j K(x,x_j)\alpha_j`.

    :math:`\alpha` solves :math:`(K+\lambda I)\alpha=y-f_0`, by least squares if K is singular. For ``sgd`` and
    :math:`\lambda=0` gradient descent on the squared error of the linearised network converges to this.

    Args:
        kernel: Kernel of the rows that are learned.
        targets: y, shape (rows, outputs).
        ridge: :math:`\lambda`, 0 or more, in units of the mean of the kernel's diagonal.

    See also: :class:`EmpiricalNTK`.

    Example:
        >>> weight = torch.zeros(1, requires_grad=True)
        >>> kernel = EmpiricalNTK(lambda row: weight * row, [torch.tensor(1.0)], [weight])
        >>> KernelPredictor(kernel, targets=torch.tensor([[2.0]])).predict([torch.tensor(3.0)]).round(decimals=3)
        tensor([[6.]], dtype=torch.float64)
    """

    def __init__(self, kernel: EmpiricalNTK, targets: Tensor, ridge: float = 0.0) -> None:
        if ridge < 0:
            raise ConfigError("ridge", ridge, "0 or more")
        if targets.shape != kernel.values.shape:
            raise ConfigError(
                "targets", tuple(targets.shape), f"rows and outputs of the kernel, {tuple(kernel.values.shape)}"
            )
        size = targets.numel()
        matrix = kernel.matrix().reshape(size, size)
        matrix = matrix + ridge * matrix.diagonal().abs().mean() * torch.eye(size, device=matrix.device)
        gap = (targets.double() - kernel.values.double()).flatten()
        self.kernel = kernel
        # only the CPU has a driver for rank-deficient matrices
        self.coefficients = torch.linalg.lstsq(matrix.cpu(), gap[:, None].cpu(), driver="gelsd").solution[:, 0]

    def predict(self, rows: Iterable[Any]) -> Tensor:
        """Outputs of other rows, shape (others, outputs), float64."""
        kernel, values = self.kernel.against(rows)
        return values.double() + kernel.flatten(2) @ self.coefficients.to(kernel.device)
