"""Leading eigenvalues of the loss Hessian, for notebooks and callbacks."""

import math
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from lit_ft.core.errors import ConfigError, nearest
from lit_ft.core.parameters import unwrapped
from lit_ft.curvature.eigensolver import Eigenpairs, Which, leading_eigenpairs
from lit_ft.curvature.objective import Loss, Objective
from lit_ft.curvature.operators import Product, Scaled, hessian
from lit_ft.curvature.warm_subspace import WarmSubspace

HALF_PRECISION_TOL = 1e-2


class NonFiniteLoss(ArithmeticError):
    """The loss, its gradient or its curvature is not a finite number.

    Example:
        >>> loss = lambda module, x: module(x).square().mean()
        >>> hessian_eigenvalues(nn.Linear(1, 1), [torch.tensor([[torch.inf]])], loss=loss)
        Traceback (most recent call last):
            ...
        lit_ft.curvature.eigenvalues.NonFiniteLoss: the loss is inf and has no finite gradient: no curvature to measure
    """


def measure(
    objective: Objective,
    k: int = 1,
    tol: float = 1e-4,
    which: Which = "largest",
    product: Product = "double_backward",
    warm: WarmSubspace | None = None,
    scaling: Tensor | None = None,
    guards: int = 2,
    max_products: int = 1000,
) -> tuple[Eigenpairs, Any]:
    """Eigenpairs of an objective, and the operator that gave them (its ``loss`` and ``gradient()`` cost nothing more).

    Args:
        objective: The loss; the caller is inside ``objective.evaluating()``.
        k: Number of eigenpairs.
        tol: Error of the values, relative to the leading one; at least 1e-2 for weights of fewer than 32 bits.
        which: ``largest`` (algebraic) or ``magnitude``.
        product: ``double_backward``, or ``finite_difference`` for kernels without second derivatives.
        warm: Subspace to start from; updated with the result.
        scaling: Positive diagonal D ``[size]``; the eigenvalues are then those of :math:`D^{1/2} H D^{1/2}`.
        guards: Additional pairs that are tracked.
        max_products: Number of products after which to stop without convergence.

    Example:
        >>> loss = lambda module, scales: (scales * module.weight.square()).sum() / 2
        >>> objective = Objective(nn.Linear(2, 1, bias=False), [torch.tensor([3.0, 1.0])], loss)
        >>> with objective.evaluating():
        ...     pairs, matrix = measure(objective, scaling=torch.tensor([4.0, 1.0]))
        >>> pairs.values.round(decimals=3)
        tensor([12.], dtype=torch.float64)
    """
    if not 1 <= k <= objective.size:
        raise ConfigError("k", k, f"1 to the number of parameters, {objective.size}")
    if not tol > 0:
        raise ConfigError("tol", tol, "a positive number")
    if which not in ("largest", "magnitude"):
        raise ConfigError("which", which, "largest or magnitude")
    matrix = hessian(objective, product)
    gradient = matrix.gradient()
    if matrix.loss is None or not math.isfinite(matrix.loss) or not bool(gradient.isfinite().all()):
        raise NonFiniteLoss(f"the loss is {matrix.loss} and has no finite gradient: no curvature to measure")
    operator: Any = matrix
    if scaling is not None:
        operator = Scaled(matrix, scaling)
        gradient = gradient * operator.root
    if objective.half_precision:
        tol = max(tol, HALF_PRECISION_TOL)
    start = gradient[None] if warm is None else warm.rows(gradient)
    pairs = leading_eigenpairs(operator, start, k, tol, which, guards, max_products=max_products, seed=objective.seed)
    if not bool(pairs.values.isfinite().all()):
        raise NonFiniteLoss("the loss has no finite curvature here: no eigenvalues to give")
    if warm is not None:
        warm.remember(pairs)
    return pairs, matrix


def hessian_eigenvalues(
    module: nn.Module,
    batches: Iterable[Any],
    k: int = 1,
    tol: float = 1e-4,
    loss: Loss | None = None,
    *,
    which: Which = "largest",
    product: Product = "double_backward",
    parameters: Sequence[nn.Parameter] | None = None,
    training: bool = False,
    warm: WarmSubspace | None = None,
    max_products: int = 1000,
    seed: int = 0,
) -> Eigenpairs:
    r"""The leading eigenpairs of the Hessian of :math:`\sum_i w_i \ell_i / \sum_i w_i` over batches.

    Cost: 20 to 40 products from scratch at k = 1, 5 to 8 with ``warm`` along a training run; a product costs about two
    forward-backward passes over the batches. Memory: a graph of one batch, and up to 96 copies of the trainable weights
    in the worst case. Nothing in the module is changed (modes, buffers, metrics, randomness). In a process group all
    ranks call it, each with its own batches.

    Args:
        module: A LightningModule (the loss of its ``training_step``), or any module with ``loss`` given.
        batches: Batches over which the loss is averaged, with weights ``module.loss_weight(batch)``, or their rows.
        k: Number of eigenvalues.
        tol: Error of the values relative to the leading one.
        loss: ``loss(module, batch)`` for a module without ``training_step``.
        which: ``largest`` (algebraic) or ``magnitude`` (a dominant negative curvature comes first, with its sign).
        product: ``double_backward``, or ``finite_difference`` for kernels without second derivatives.
        parameters: The parameters to differentiate by; None takes all that require a gradient.
        training: Measure in training mode (batch-norm by batch, one fixed dropout mask) instead of evaluation mode.
        warm: A ``WarmSubspace`` kept from call to call.
        max_products: Number of products after which to stop without convergence (``converged`` is then False).
        seed: Seed of random directions and of the module's own randomness.

    Raises:
        ConfigError: ``k`` is above the number of parameters, there are no batches, or the module has no usable loss.
        NoDoubleBackward: The loss has no second derivative; the message names remedies.
        NonFiniteLoss: The loss or its gradient is not finite.

    See also: :func:`group_eigenvalues`, and :class:`~lit_ft.callbacks.EdgeOfStability` for a training run.

    Example:
        >>> module = nn.Linear(2, 1, bias=False)
        >>> loss = lambda module, scales: (scales * module.weight.square()).sum() / 2
        >>> hessian_eigenvalues(module, [torch.tensor([3.0, 1.0])], k=2, loss=loss).values.round(decimals=3)
        tensor([3., 1.], dtype=torch.float64)
    """
    objective = Objective(module, batches, loss, parameters, training, seed)
    with objective.evaluating():
        pairs, _ = measure(objective, k, tol, which, product, warm, max_products=max_products)
    return pairs


def group_eigenvalues(
    module: nn.Module,
    batches: Iterable[Any],
    groups: Mapping[str, str | Sequence[str]] | None = None,
    k: int = 1,
    tol: float = 1e-4,
    loss: Loss | None = None,
    *,
    which: Which = "largest",
    training: bool = False,
) -> dict[str, Eigenpairs]:
    """The leading eigenpairs of diagonal blocks of the Hessian: one for each group of parameters.

    Args:
        module: As in ``hessian_eigenvalues``.
        batches: As in ``hessian_eigenvalues``.
        groups: ``{name: pattern or patterns}``, shell globs on parameter names; None makes a group of each layer
            (module that owns parameters).
        k: Number of eigenvalues per group; fewer if a group has fewer parameters.
        tol: As in ``hessian_eigenvalues``.
        loss: As in ``hessian_eigenvalues``.
        which: As in ``hessian_eigenvalues``.
        training: As in ``hessian_eigenvalues``.

    See also: :func:`hessian_eigenvalues`.

    Example:
        >>> module = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
        >>> loss = lambda module, scale: (scale * module[0].weight.square() + module[1].weight.square()).sum() / 2
        >>> pairs = group_eigenvalues(module, [torch.tensor(5.0)], loss=loss)
        >>> {group: round(float(found.values[0]), 4) for group, found in pairs.items()}
        {'0': 5.0, '1': 1.0}
    """
    batches = list(batches)
    named = {name: p for name, p in unwrapped(module).named_parameters() if p.requires_grad}
    chosen_by_group = _by_layer(named) if groups is None else _by_pattern(named, groups)
    found = {}
    for group, chosen in chosen_by_group.items():
        count = min(k, sum(p.numel() for p in chosen))
        found[group] = hessian_eigenvalues(
            module, batches, count, tol, loss, which=which, parameters=chosen, training=training
        )
    return found


def _by_layer(named: Mapping[str, nn.Parameter]) -> dict[str, list[nn.Parameter]]:
    layers: dict[str, list[nn.Parameter]] = {}
    for name, parameter in named.items():
        layers.setdefault(name.rpartition(".")[0] or name, []).append(parameter)
    return layers


def _by_pattern(
    named: Mapping[str, nn.Parameter], groups: Mapping[str, str | Sequence[str]]
) -> dict[str, list[nn.Parameter]]:
    found = {}
    for group, given in groups.items():
        patterns = [given] if isinstance(given, str) else given
        found[group] = [p for name, p in named.items() if any(fnmatchcase(name, pattern) for pattern in patterns)]
        if not found[group]:
            allowed = f"patterns that match a trainable parameter{nearest(patterns[0], named)}"
            raise ConfigError(f"groups.{group}", given, allowed)
    return found
