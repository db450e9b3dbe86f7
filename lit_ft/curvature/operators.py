"""Symmetric matrices that are known only by their products with vectors."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, Protocol

import torch
from torch import Tensor

from lit_ft.core.errors import ConfigError
from lit_ft.curvature.objective import Objective

Product = Literal["double_backward", "finite_difference"]


class Operator(Protocol):
    """A symmetric matrix over flat rows. ``products`` counts the vectors it was multiplied with."""

    size: int
    dtype: torch.dtype
    device: torch.device
    products: int
    single: bool  # one vector at a time costs no more than a block

    def apply(self, block: Tensor) -> Tensor:
        """The products with the rows of ``block`` ``[m, size]``."""


class NoDoubleBackward(RuntimeError):
    """The loss cannot be differentiated twice.

    Example:
        >>> lengths = torch.tensor([2]), torch.tensor([1])
        >>> ctc = lambda module, x: nn.functional.ctc_loss(module(x).log_softmax(-1), torch.tensor([1]), *lengths)
        >>> objective = Objective(nn.Linear(3, 3), [torch.ones(2, 3)], loss=ctc)
        >>> with objective.evaluating():
        ...     Hessian(objective).apply(torch.ones(1, 12))
        Traceback (most recent call last):
            ...
        lit_ft.curvature.operators.NoDoubleBackward: the loss has no second derivative here ...
    """


@contextmanager
def explained() -> Iterator[None]:
    """Turn autograd errors about missing second derivatives into one that names the remedies."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        text = str(error)
        if not any(
            sign in text for sign in ("is not implemented", "once_differentiable", "double backward", "derivative for")
        ):
            raise
        raise NoDoubleBackward(
            f"the loss has no second derivative here ({text.splitlines()[0]}); use product='finite_difference', or"
            " attention 'eager' or 'sdpa', or a loss that takes its plain form under differentiable_twice() of"
            " lit_ft.core.curvature"
        ) from error


Part = tuple[float, Tensor, tuple[Tensor | None, ...]]


def plain_gradients(objective: Objective) -> Iterator[Part]:
    """The share, loss and gradient of each batch, without a graph."""
    for share, loss in objective.losses():
        yield share, loss.detach(), torch.autograd.grad(loss, objective.parameters, allow_unused=True)


def summed(objective: Objective, parts: Iterator[Part]) -> tuple[float, Tensor]:
    """Loss and gradient ``[size]`` of the whole objective."""
    value = torch.zeros((), dtype=torch.float64, device=objective.device)
    total = torch.zeros(objective.size, dtype=objective.dtype, device=objective.device)
    for share, loss, gradient in parts:
        value += share * loss.double()
        total += share * objective.flat(gradient)
    return float(objective.sum_over_ranks(value)), objective.sum_over_ranks(total)


def refuse_once_differentiable(parts: Iterable[Tensor | None]) -> None:
    """Raise for a custom function whose gradient autograd treats as a constant: products would be silently wrong."""
    stack = [part.grad_fn for part in parts if part is not None and part.grad_fn is not None]
    seen = set(stack)
    while stack:
        node = stack.pop()
        if node.name() == "torch::autograd::Error":
            raise RuntimeError("a custom function of the loss is once_differentiable")
        following = {child for child, _ in node.next_functions if child is not None} - seen
        seen |= following
        stack.extend(following)


class Hessian:
    r"""The Hessian of an objective, by double backward: :math:`Hv = \nabla (\nabla L \cdot v)`.

    Args:
        objective: The loss. Use the operator inside ``objective.evaluating()``.
        keep_graphs: Keep the graph of the gradient between calls: a product then costs a third less, for the memory of
            one graph per batch. None keeps it if there is a single batch. Otherwise each batch is differentiated once
            for a whole block of vectors.

    See also: :class:`FiniteDifferenceHessian`, for losses without a second derivative.

    Example:
        >>> loss = lambda module, scales: (scales * module.weight.square()).sum() / 2
        >>> objective = Objective(nn.Linear(2, 1, bias=False), [torch.tensor([3.0, 1.0])], loss)
        >>> with objective.evaluating():
        ...     Hessian(objective).apply(torch.eye(2))
        tensor([[3., 0.],
                [0., 1.]])
    """

    def __init__(self, objective: Objective, keep_graphs: bool | None = None) -> None:
        self.objective, self.size = objective, objective.size
        self.dtype, self.device = objective.dtype, objective.device
        self.single = objective.one_batch if keep_graphs is None else keep_graphs
        self.products = 0
        self.loss: float | None = None
        self._checked = False
        self._graphs: list[Part] | None = None
        self._gradient: Tensor | None = None

    def _gradients(self) -> Iterator[Part]:
        """The share, loss and gradient of each batch, with the graph of the gradient."""
        if self._graphs is not None:
            yield from self._graphs
            return
        kept: list[Part] = []
        for share, loss in self.objective.losses():
            # an upstream gradient that requires a gradient marks what is differentiable once; a plain 1 would hide it
            one = torch.ones_like(loss, requires_grad=True)
            with explained():
                parts = torch.autograd.grad(loss, self.objective.parameters, one, create_graph=True, allow_unused=True)
                if not self._checked:
                    refuse_once_differentiable(parts)
            self._checked, loss = True, loss.detach()
            if self.single:
                kept.append((share, loss, parts))
            yield share, loss, parts
            del parts
        if self.single:
            self._graphs = kept

    def gradient(self) -> Tensor:
        """The gradient of the objective ``[size]``; also sets ``loss``."""
        if self._gradient is None:
            parts = self._gradients() if self.single else plain_gradients(self.objective)
            self.loss, self._gradient = summed(self.objective, parts)
        return self._gradient

    def apply(self, block: Tensor) -> Tensor:
        """The products with the rows of ``block`` ``[m, size]``."""
        objective = self.objective
        result = torch.zeros(len(block), self.size, dtype=self.dtype, device=self.device)
        for share, _, parts in self._gradients():
            for row, out in zip(block, result, strict=True):
                pairs = [
                    (part, piece)
                    for part, piece in zip(parts, objective.shaped(row), strict=True)
                    if part is not None and part.requires_grad
                ]
                if not pairs:
                    continue  # a loss that is linear in the parameters
                with explained():
                    product = torch.autograd.grad(
                        [part for part, _ in pairs],
                        objective.parameters,
                        [piece for _, piece in pairs],
                        retain_graph=True,
                        allow_unused=True,
                    )
                out += share * objective.flat(product)
        self.products += len(block)
        return objective.sum_over_ranks(result)


class FiniteDifferenceHessian:
    r"""The Hessian by central differences: :math:`Hv \approx (\nabla L(w + rv) - \nabla L(w - rv)) / 2r` for unit v.

    For kernels without double backward. Two gradients per product; the weights are moved and restored bit by bit. In
    float32 the relative error is about 1e-3, so ask for ``tol`` of 1e-3 or more.

    Args:
        objective: The loss, with weights in float32 or float64.
        radius: r; None takes the cube root of the machine precision (5e-3 in float32).

    See also: :class:`Hessian`, which is exact.

    Example:
        >>> loss = lambda module, scales: (scales * module.weight.square()).sum() / 2
        >>> objective = Objective(nn.Linear(2, 1, bias=False).double(), [torch.tensor([3.0, 1.0])], loss)
        >>> with objective.evaluating():
        ...     FiniteDifferenceHessian(objective).apply(torch.eye(2).double()).round(decimals=4)
        tensor([[3., 0.],
                [0., 1.]], dtype=torch.float64)
    """

    single = True

    def __init__(self, objective: Objective, radius: float | None = None) -> None:
        if objective.half_precision:
            raise ConfigError("product", "finite_difference", "double_backward for weights of fewer than 32 bits")
        self.objective, self.size = objective, objective.size
        self.dtype, self.device = objective.dtype, objective.device
        self.radius = torch.finfo(objective.dtype).eps ** (1 / 3) if radius is None else radius
        self.products = 0
        self.loss: float | None = None

    def gradient(self) -> Tensor:
        """The gradient of the objective ``[size]``; also sets ``loss``."""
        self.loss, gradient = summed(self.objective, plain_gradients(self.objective))
        return gradient

    def apply(self, block: Tensor) -> Tensor:
        """The products with the rows of ``block`` ``[m, size]``."""
        parameters = self.objective.parameters
        loss, backup = self.loss, [p.detach().clone() for p in parameters]
        rows = []
        try:
            for row in block:
                norm = row.norm()
                steps = self.objective.shaped(row * (self.radius / norm))
                sides = []
                for sign in (1.0, -1.0):
                    with torch.no_grad():
                        for p, old, step in zip(parameters, backup, steps, strict=True):
                            p.copy_(old + sign * step)
                    sides.append(self.gradient())
                rows.append((sides[0] - sides[1]) * (norm / (2 * self.radius)))
        finally:
            with torch.no_grad():
                for p, old in zip(parameters, backup, strict=True):
                    p.copy_(old)
            self.loss = loss
        self.products += len(block)
        return torch.stack(rows)


class Scaled:
    r""":math:`D^{1/2} A D^{1/2}` for a positive diagonal D: the curvature that a preconditioned optimizer sees.

    Args:
        operator: A.
        diagonal: D ``[size]``.

    Example:
        >>> loss = lambda module, scales: (scales * module.weight.square()).sum() / 2
        >>> objective = Objective(nn.Linear(2, 1, bias=False), [torch.tensor([3.0, 1.0])], loss)
        >>> with objective.evaluating():
        ...     Scaled(Hessian(objective), torch.tensor([4.0, 1.0])).apply(torch.eye(2))
        tensor([[12.,  0.],
                [ 0.,  1.]])
    """

    def __init__(self, operator: Operator, diagonal: Tensor) -> None:
        self.operator, self.root = operator, diagonal.sqrt()
        self.size, self.dtype, self.device, self.single = (
            operator.size,
            operator.dtype,
            operator.device,
            operator.single,
        )

    @property
    def products(self) -> int:
        """Products of A so far."""
        return self.operator.products

    def apply(self, block: Tensor) -> Tensor:
        """The products with the rows of ``block`` ``[m, size]``."""
        return self.operator.apply(block * self.root) * self.root


def hessian(objective: Objective, product: Product = "double_backward") -> Hessian | FiniteDifferenceHessian:
    """The Hessian of an objective by the chosen kind of product."""
    if product not in ("double_backward", "finite_difference"):
        raise ConfigError("product", product, "double_backward or finite_difference")
    return Hessian(objective) if product == "double_backward" else FiniteDifferenceHessian(objective)
