"""The stability threshold of an optimizer: on a quadratic it diverges along eigenvectors with larger eigenvalues."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop


@dataclass
class Stability:
    r"""The matrix :math:`D^{1/2} H D^{1/2}` that an optimizer sees, and the eigenvalue at which it becomes unstable.

    D is the inverse of the preconditioner times the rate of a parameter's group over the largest rate; None stands for
    the identity, and then the matrix is H itself.

    Args:
        threshold: The largest eigenvalue that is stable.
        diagonal: D ``[size]``, in the order of the parameters.
    """

    threshold: float
    diagonal: Tensor | None


def stability(optimizer: Optimizer, parameters: Sequence[nn.Parameter]) -> Stability | None:
    r"""The stability of the next step with a fixed preconditioner; None if unknown.

    SGD: :math:`2/\eta`; with momentum b and damping d: :math:`(2+2b)/(\eta(1-d))`; Nesterov:
    :math:`(2+2b)/(\eta(1+2b))`.
    RMSprop with momentum b: :math:`(2+2b)/\eta`, preconditioner :math:`\sqrt\nu+\epsilon`.
    Adam, AdamW: :math:`(2+2b_1)/((1-b_1)\eta)`, preconditioner
    :math:`(1-b_1^t)(\sqrt{\nu/(1-b_2^t)}+\epsilon)`.

    With momentum :math:`v \leftarrow bv + g` as in torch. Known for exactly these classes, with the same momentum in
    all groups. Weight decay is ignored; one that is coupled to the gradient adds to the curvature. Unknown before the
    first step of an optimizer with a preconditioner, and at rate 0.

    Args:
        optimizer: The optimizer, with its state.
        parameters: The parameters of the Hessian; the optimizer has all of them.

    Source: Cohen, Kaur, Li, Kolter, Talwalkar, Gradient Descent on Neural Networks Typically Occurs at the Edge of
    Stability, 2021, arXiv 2103.00065; Cohen et al., Adaptive Gradient Methods at the Edge of Stability, 2022,
    arXiv 2207.14484.

    Example:
        >>> parameters = list(nn.Linear(2, 1).parameters())
        >>> stability(torch.optim.SGD(parameters, lr=0.1), parameters)
        Stability(threshold=20.0, diagonal=None)
        >>> round(stability(torch.optim.SGD(parameters, lr=0.1, momentum=0.9), parameters).threshold, 3)  # 3.8 / 0.1
        38.0
    """
    groups = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}
    used = [groups[parameter] for parameter in parameters]
    factors = {_factor(optimizer, group) for group in used}
    rates = [float(group["lr"]) for group in used]
    if len(factors) != 1 or None in factors or not max(rates) > 0:
        return None
    pieces = []
    for parameter, rate in zip(parameters, rates, strict=True):
        preconditioner = _preconditioner(optimizer, parameter, groups[parameter])
        if preconditioner is None:
            return None
        pieces.append((rate / max(rates)) / preconditioner.float().reshape(-1))
    factor = factors.pop()
    assert factor is not None
    plain = isinstance(optimizer, SGD) and min(rates) == max(rates)
    return Stability(factor / max(rates), None if plain else torch.cat(pieces))


def _factor(optimizer: Optimizer, group: dict) -> float | None:
    """The threshold times the rate."""
    if group.get("maximize"):
        return None
    if type(optimizer) is SGD:
        b = group["momentum"]
        if group["nesterov"]:
            return (2 + 2 * b) / (1 + 2 * b)
        return (2 + 2 * b) / (1 - (group["dampening"] if b else 0.0))
    if type(optimizer) is RMSprop:
        return 2 + 2 * group["momentum"]
    if type(optimizer) in (Adam, AdamW):
        b = float(group["betas"][0])
        return (2 + 2 * b) / (1 - b)
    return None


def _preconditioner(optimizer: Optimizer, parameter: nn.Parameter, group: dict) -> Tensor | None:
    """The elementwise divisor of the update; None before the first step."""
    if isinstance(optimizer, SGD):
        return torch.ones_like(parameter)
    state = optimizer.state.get(parameter)
    if not state:
        return None
    if isinstance(optimizer, RMSprop):
        second = state["square_avg"]
        if group["centered"]:
            second = (second - state["grad_avg"].square()).clamp(min=0)
        return second.sqrt() + group["eps"]
    b1, b2 = (float(b) for b in group["betas"])
    step = float(state["step"])
    second = state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"]
    return (1 - b1**step) * ((second / (1 - b2**step)).sqrt() + group["eps"])
