"""Variants of SAM, which use its two gradients differently."""

from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from lit_ft.core.checks import NonNegativeFloat, Range, checked

Gradients = list[Tensor]


class SAMVariant:
    """How SAM climbs, and how it combines the gradients g (at the weights) and s (at the perturbed weights).

    Gradients are lists of tensors, one for each optimised parameter; a memory of other parameters is dropped.
    This base class is SAM itself.

    See also: :class:`~lit_ft.callbacks.SAM`, which takes a variant as an argument.

    Example:
        >>> gradient, sharp = [torch.tensor([1.0, 1.0])], [torch.tensor([1.0, 0.0])]
        >>> SAMVariant().combine(gradient, sharp)
        [tensor([1., 0.])]
    """

    needs_gradient: ClassVar[bool] = False
    """Whether ``combine`` reads g; it is then kept through the second pass (memory: one gradient)."""

    def direction(self, gradient: Gradients) -> Gradients:
        """The direction uphill, of any length; may take over the tensors."""
        return gradient

    def combine(self, gradient: Gradients, sharp: Gradients) -> Gradients:
        """The gradient that the optimizer sees."""
        return sharp

    def between(self, gradient: Gradients) -> Gradients:
        """The gradient that the optimizer sees on a step without second pass (``every_n_steps`` above 1)."""
        return gradient

    def state_dict(self) -> dict[str, Any]:
        """The memory of the variant."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the memory."""


class GSAM(SAMVariant):
    r"""Surrogate gap: also reduce the loss along the part of g that does not raise the perturbed loss.

    :math:`G = s - \alpha\, g_\perp`, with :math:`g_\perp = g - \frac{g\cdot s}{\|s\|^2} s`. The paper lets the radius
    follow the learning rate: ``SAM(rho_follows_lr=True)``.

    Source: J. Zhuang et al., "Surrogate Gap Minimization Improves Sharpness-Aware Training", 2022, arXiv 2203.08065.

    Args:
        alpha: Weight of the perpendicular part, at least 0 (paper: 0.1 to 0.7).

    Example:
        >>> gradient, sharp = [torch.tensor([1.0, 1.0])], [torch.tensor([1.0, 0.0])]
        >>> GSAM(alpha=0.5).combine(gradient, sharp)  # (1, 0) - 0.5 * (0, 1)
        [tensor([ 1.0000, -0.5000])]
    """

    needs_gradient = True

    def __init__(self, alpha: NonNegativeFloat = 0.4) -> None:
        super().__init__()
        checked(locals())
        self.alpha = alpha

    def combine(self, gradient: Gradients, sharp: Gradients) -> Gradients:
        """``s - alpha * (g without its part along s)``."""
        along = _dot(gradient, sharp) / (_dot(sharp, sharp) + 1e-24)
        return [s - self.alpha * (g - along.to(g) * s) for g, s in zip(gradient, sharp, strict=True)]


class LookSAM(SAMVariant):
    r"""Reuse the part of SAM's gradient that is orthogonal to g: between second passes, add it to the plain gradient.

    On a step with second pass: :math:`v = s - \frac{g\cdot s}{\|g\|^2} g`. On the others:
    :math:`G = g + \alpha \frac{\|g\|}{\|v\|} v`. Products and norms go over the whole vector, as in the paper (some
    implementations take them per tensor). Set ``SAM(every_n_steps=5)``, the paper's k. Memory: v, and g during the
    second pass.

    Source: Y. Liu et al., "Towards Efficient and Scalable Sharpness-Aware Minimization", 2022, arXiv 2203.02714.

    Args:
        alpha: Weight of the reused part, at least 0 (paper: 0.7).

    Example:
        >>> variant = LookSAM(alpha=1.0)
        >>> variant.combine([torch.tensor([1.0, 0.0])], [torch.tensor([1.0, 2.0])])  # v = (0, 2)
        [tensor([1., 2.])]
        >>> variant.between([torch.tensor([3.0, 0.0])])  # (3, 0) + 3 / 2 * (0, 2)
        [tensor([3., 3.])]
    """

    needs_gradient = True

    def __init__(self, alpha: NonNegativeFloat = 0.7) -> None:
        super().__init__()
        checked(locals())
        self.alpha = alpha
        self._new: Gradients = []

    def combine(self, gradient: Gradients, sharp: Gradients) -> Gradients:
        """SAM's gradient; keeps its part orthogonal to g."""
        along = _dot(gradient, sharp) / (_dot(gradient, gradient) + 1e-24)
        self._new = [s - along.to(s) * g for g, s in zip(gradient, sharp, strict=True)]
        return sharp

    def between(self, gradient: Gradients) -> Gradients:
        """The plain gradient plus the reused part, scaled to ``alpha`` times the length of the gradient."""
        if not _fits(self._new, gradient):
            return gradient
        self._new = [v.to(g) for g, v in zip(gradient, self._new, strict=True)]  # a checkpoint brings it on the CPU
        length = (_dot(gradient, gradient) / (_dot(self._new, self._new) + 1e-24)).sqrt() * self.alpha
        return [g + length.to(g) * v for g, v in zip(gradient, self._new, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """The reused part."""
        return {"new": self._new}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the reused part."""
        self._new = list(state["new"])


class FriendlySAM(SAMVariant):
    r"""F-SAM: climb along the noise of the batch, without the mean gradient over batches.

    :math:`e = \rho\, d/\|d\|` with :math:`d = g - \sigma m`, then
    :math:`m \leftarrow \lambda m + (1-\lambda) g`. The first step sets m = g and climbs along g, as the authors' code
    does. Memory: m.

    Source: T. Li et al., "Friendly Sharpness-Aware Minimization", 2024, arXiv 2403.12350 (code nblt/F-SAM).

    Args:
        sigma: How much of the mean gradient is taken out, at least 0 (paper: 1).
        momentum: Decay of that mean, in [0, 1) (paper: 0.6 to 0.95).

    Example:
        >>> variant = FriendlySAM(sigma=1.0)
        >>> variant.direction([torch.tensor([1.0, 1.0])])
        [tensor([1., 1.])]
        >>> variant.direction([torch.tensor([1.0, 3.0])])  # without the mean so far, (1, 1)
        [tensor([0., 2.])]
    """

    def __init__(self, sigma: NonNegativeFloat = 1.0, momentum: Annotated[float, Range(low=0, below=1)] = 0.9) -> None:
        super().__init__()
        checked(locals())
        self.sigma, self.momentum = sigma, momentum
        self._mean: Gradients = []

    def direction(self, gradient: Gradients) -> Gradients:
        """The gradient minus the mean of earlier gradients."""
        if not _fits(self._mean, gradient):
            self._mean = [g.clone() for g in gradient]
            return gradient
        self._mean = [m.to(g) for g, m in zip(gradient, self._mean, strict=True)]  # a checkpoint brings it on the CPU
        direction = [g - self.sigma * m for g, m in zip(gradient, self._mean, strict=True)]
        torch._foreach_lerp_(self._mean, gradient, 1 - self.momentum)
        return direction

    def state_dict(self) -> dict[str, Any]:
        """The mean gradient."""
        return {"mean": self._mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the mean gradient."""
        self._mean = list(state["mean"])


def _fits(memory: Gradients, gradient: Gradients) -> bool:
    """Whether there is a memory of these parameters: callbacks may have frozen or unfrozen some since."""
    return [m.shape for m in memory] == [g.shape for g in gradient]


def _dot(a: Gradients, b: Gradients) -> Tensor:
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()
