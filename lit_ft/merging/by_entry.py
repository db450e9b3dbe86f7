"""Merges that look at single entries of the changes to a base."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor
from typing_extensions import override

from lit_ft.core.checks import ClosedUnitInterval, NonNegativeInt, Range, checked
from lit_ft.core.errors import ConfigError
from lit_ft.merging import arithmetic
from lit_ft.merging.merge import Merge, TaskArithmetic
from lit_ft.merging.places import TensorPlace

Density = Annotated[float, Range(above=0, high=1)]


class TIES(Merge):
    """Changes that are trimmed to their largest entries, and averaged where their signs agree.

    See :func:`lit_ft.merging.arithmetic.ties` for the equation.

    Args:
        density: Share of each tensor's entries that is kept: exactly ``max(1, int(density * n))``; the paper's is 0.2.
        scale: Factor of the merged change, the paper's lambda.
        sign: Whether the elected sign is that of the sum (``mass``) or of the majority (``count``).
        weight: One for each input; the default is 1.

    Source: P. Yadav et al., "TIES-Merging: Resolving Interference When Merging Models", 2023, arXiv 2306.01708.

    Example:
        >>> base, inputs = torch.zeros(2), [torch.tensor([4.0, 0.1]), torch.tensor([-1.0, 0.2])]
        >>> TIES(density=0.5).combine(TensorPlace("w"), base, inputs)
        tensor([4., 0.])
    """

    needs_base = True

    def __init__(
        self,
        density: ClosedUnitInterval = 0.2,
        scale: float = 1.0,
        sign: Literal["mass", "count"] = "mass",
        weight: list[float] | None = None,
    ) -> None:
        super().__init__(weight)
        checked(locals())
        self.density, self.scale, self.sign = density, scale, sign

    @override
    def combine(self, place: TensorPlace, base: Tensor | None, inputs: Sequence[Tensor]) -> Tensor:
        if base is None:
            return self.without_base(place, inputs)
        deltas = [tensor - base for tensor in inputs]
        return base + self.scale * arithmetic.ties(deltas, self.weights(len(inputs)), self.density, self.sign)


class DARE(Merge):
    """Changes of which a random part is dropped and the rest scaled up, then added.

    What is drawn depends on the seed, the tensor's name and what the input holds; not on order, shards or device.

    Args:
        density: Probability that an entry is kept; 1 minus the paper's drop rate, which is 0.9 and more.
        seed: Of the draws.
        rescale: Whether what is kept is divided by ``density``.
        ties: Whether the changes are then combined as in :class:`TIES`, without a trim, in place of being added.
        weight: One for each input; the default is 1.

    Source: L. Yu et al., "Language Models are Super Mario: Absorbing Abilities from Homologous Models as a Free Lunch",
    2023, arXiv 2311.03099.

    Example:
        >>> merged = DARE(density=0.5).combine(TensorPlace("w"), torch.zeros(1000), [torch.ones(1000)])
        >>> merged.unique()
        tensor([0., 2.])
    """

    needs_base = True

    def __init__(
        self,
        density: Density = 0.1,
        seed: NonNegativeInt = 0,
        rescale: bool = True,
        ties: bool = False,
        weight: list[float] | None = None,
    ) -> None:
        super().__init__(weight)
        checked(locals())
        self.density, self.seed, self.rescale, self.ties = density, seed, rescale, ties

    @override
    def combine(self, place: TensorPlace, base: Tensor | None, inputs: Sequence[Tensor]) -> Tensor:
        if base is None:
            return self.without_base(place, inputs)
        deltas = [tensor - base for tensor in inputs]
        again = [sum(torch.equal(delta, one) for one in deltas[:number]) for number, delta in enumerate(deltas)]
        draws = [arithmetic.draw_of(self.seed, place.name, d, n) for d, n in zip(deltas, again, strict=True)]
        kept = [arithmetic.dare(d, self.density, g, self.rescale) for d, g in zip(deltas, draws, strict=True)]
        if self.ties:
            return base + arithmetic.ties(kept, self.weights(len(inputs)), density=1.0)
        return arithmetic.added(base, kept, self.weights(len(inputs)))


class Breadcrumbs(TaskArithmetic):
    """Changes without their largest and smallest entries, added to the base.

    Args:
        density: Share of each tensor's entries that is kept.
        outliers: Share of the largest entries that is dropped, the paper's gamma; about 0.01.
        weight: One for each input; the default is 1.

    Source: M. Davari, E. Belilovsky, "Model Breadcrumbs: Scaling Multi-Task Model Merging with Sparse Masks", 2023,
    arXiv 2312.06795.

    Example:
        >>> base, tuned = torch.zeros(4), torch.tensor([9.0, 3.0, 2.0, 1.0])
        >>> Breadcrumbs(density=0.5, outliers=0.25).combine(TensorPlace("w"), base, [tuned])
        tensor([0., 3., 2., 0.])
    """

    def __init__(
        self, density: Density = 0.9, outliers: ClosedUnitInterval = 0.01, weight: list[float] | None = None
    ) -> None:
        super().__init__(weight)
        checked(locals())
        if density + outliers > 1:
            raise ConfigError("density", density, f"at most {1 - outliers:g} beside outliers of {outliers:g}")
        self.density, self.outliers = density, outliers

    @override
    def combine(self, place: TensorPlace, base: Tensor | None, inputs: Sequence[Tensor]) -> Tensor:
        if base is None:
            return self.without_base(place, inputs)
        kept = [arithmetic.breadcrumbs(tensor - base, self.density, self.outliers) for tensor in inputs]
        return arithmetic.added(base, kept, self.weights(len(inputs)))


class ModelStock(Merge):
    """The mean of the inputs, drawn towards the base by as much as their changes disagree.

    See :func:`lit_ft.merging.arithmetic.stock_share` for the equation; it is computed tensor by tensor.

    Source: D. Jang et al., "Model Stock: All we need is just a few fine-tuned models", 2024, arXiv 2403.19522.

    Example:
        >>> base, inputs = torch.zeros(2), [torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])]
        >>> ModelStock().combine(TensorPlace("w"), base, inputs)  # changes at right angles have nothing in common
        tensor([0., 0.])
    """

    needs_base = True

    def __init__(self) -> None:
        super().__init__()

    @override
    def combine(self, place: TensorPlace, base: Tensor | None, inputs: Sequence[Tensor]) -> Tensor:
        if base is None:
            return self.without_base(place, inputs)
        deltas = [tensor - base for tensor in inputs]
        share = arithmetic.stock_share(deltas) / len(deltas)
        return arithmetic.added(base, deltas, [share] * len(deltas))
