"""Selections of the entries or tensors with the largest scores."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from lit_ft.core.errors import ConfigError, existing
from lit_ft.core.parameters import ParameterIndex
from lit_ft.core.selection.base import Choices, Selection
from lit_ft.core.selection.units import mark, network_units
from lit_ft.core.weights import Source, tensors_in, weights_of, wide
from lit_ft.sparse.top import Score, budgets, top_masks

Scope = Literal["global", "tensor"]


class Scored(Selection):
    """The base of selections by score; a subclass implements ``scores``.

    Args:
        density: Share of the entries that is selected, in (0, 1].
        scope: ``global`` compares all entries with each other; ``tensor`` gives each tensor the same share.
        patterns: Shell globs of the parameters that are compared; the others are not selected. None takes all.

    Example:
        >>> class Largest(Scored):
        ...     def scores(self, index, base):
        ...         return {n: lambda i, j, p=p: p.detach().flatten()[i:j] for n, p in index.parameters.items()}
        >>> network = nn.Linear(3, 1, bias=False)
        >>> network.weight.data = torch.tensor([[-3.0, 2.0, 1.0]])
        >>> Largest(density=1 / 3).select(network)
        {'weight': tensor([[False,  True, False]])}
    """

    def __init__(self, density: float, scope: Scope = "global", patterns: list[str] | None = None) -> None:
        if not 0 < density <= 1:
            raise ConfigError("density", density, "a share in (0, 1]")
        if scope not in ("global", "tensor"):
            raise ConfigError("scope", scope, "global or tensor")
        self.density, self.scope, self.patterns = density, scope, patterns

    def scores(self, index: ParameterIndex, base: nn.Module | None) -> Mapping[str, Score]:
        """For each parameter, a function from (start, stop) to the scores of these entries of the flat tensor."""
        raise NotImplementedError(f"{type(self).__name__} defines scores(index, base)")

    def compared(self, index: ParameterIndex) -> list[str]:
        """The names of the parameters that share the budget."""
        return list(index.entries) if self.patterns is None else index.match(self.patterns)

    def choose(self, index: ParameterIndex, base: nn.Module | None) -> Choices:
        """Masks that meet the budget exactly."""
        names = self.compared(index)
        shapes = {name: index[name].parameter.shape for name in names}
        scores = self.scores(index, base)
        groups = [names] if self.scope == "global" else [[name] for name in names]
        numbers = budgets(self.density, [sum(shapes[name].numel() for name in group) for group in groups])
        chosen: Choices = {}
        for group, number in zip(groups, numbers, strict=True):
            if number:
                chosen.update(top_masks(scores, {name: shapes[name] for name in group}, number))
        return chosen


class TopChange(Scored):
    r"""The entries with the largest change :math:`|\theta - \theta_0|` in fine-tuning.

    After AdamW all weights have changed by about the same amount, and the choice says little; after SGD it is
    informative.

    Args:
        density: Share of the entries, in (0, 1]. LT-SFT: 0.04 to 0.08. Grafting: 1e-7 to 1e-2.
        tuned: The fine-tuned weights (module, ``.safetensors`` file or folder, checkpoint, run folder); None means
            those of the module that the selection is applied to.
        base: The weights before; None means the ``base`` given to ``select``, or else (with ``tuned``) those of the
            module that the selection is applied to.
        scope: ``global`` compares all entries; ``tensor`` gives each tensor the same share.
        patterns: Shell globs of the parameters that are compared; None takes all.

    Source: A. Ansell et al., "Composable Sparse Fine-Tuning for Cross-Lingual Transfer", 2022, arXiv 2110.07560;
    A. Panigrahi et al., "Task-Specific Skill Localization in Fine-tuned Language Models", 2023, arXiv 2302.06600. The
    authors' code exceeds its budget at ties; ours meets it.

    See also: :class:`~lit_ft.sparse.sparse_delta.SparseDelta`, which keeps the changed entries in a file.

    Example:
        >>> base, tuned = nn.Linear(3, 1, bias=False), nn.Linear(3, 1, bias=False)
        >>> tuned.weight.data = base.weight.data + torch.tensor([[0.0, 2.0, -1.0]])
        >>> TopChange(density=1 / 3).select(tuned, base)
        {'weight': tensor([[False,  True, False]])}
    """

    def __init__(
        self,
        density: float,
        tuned: Source | None = None,
        base: Source | None = None,
        scope: Scope = "global",
        patterns: list[str] | None = None,
    ) -> None:
        super().__init__(density, scope, patterns)
        self.tuned, self.base = tuned, base

    def scores(self, index: ParameterIndex, base: nn.Module | None) -> Mapping[str, Score]:
        """The absolute change."""
        before = self.base if self.base is not None else base
        if before is None and self.tuned is None:
            raise ConfigError("tuned", None, "weights to compare with: tuned, base, or select(module, base)")
        old = weights_of("base", index.module if before is None else before, index)
        new = weights_of("tuned", index.module if self.tuned is None else self.tuned, index)
        return {name: _difference(new[name].reshape(-1), old[name].reshape(-1)) for name in index.entries}


class TopMagnitude(Scored):
    """The entries with the largest (or smallest) absolute values.

    Args:
        density: Share of the entries, in (0, 1].
        smallest: Take the smallest instead.
        weights: The weights to compare; None means those of the module that the selection is applied to.
        scope: ``global`` compares all entries; ``tensor`` gives each tensor the same share.
        patterns: Shell globs of the parameters that are compared; None takes all.

    Example:
        >>> network = nn.Linear(3, 1, bias=False)
        >>> network.weight.data = torch.tensor([[-3.0, 2.0, 1.0]])
        >>> TopMagnitude(density=1 / 3).select(network)
        {'weight': tensor([[ True, False, False]])}
        >>> TopMagnitude(density=1 / 3, smallest=True).select(network)
        {'weight': tensor([[False, False,  True]])}
    """

    def __init__(
        self,
        density: float,
        smallest: bool = False,
        weights: Source | None = None,
        scope: Scope = "global",
        patterns: list[str] | None = None,
    ) -> None:
        super().__init__(density, scope, patterns)
        self.smallest, self.weights = smallest, weights

    def scores(self, index: ParameterIndex, base: nn.Module | None) -> Mapping[str, Score]:
        """The absolute value, negated for the smallest."""
        values = weights_of("weights", index.module if self.weights is None else self.weights, index)
        return {name: _magnitude(value.reshape(-1), self.smallest) for name, value in values.items()}


class LearnedScore(Scored):
    """The entries with the largest scores of a file.

    Args:
        path: A ``.safetensors`` file with one tensor of scores for each parameter, by its name.
        density: Share of the entries, in (0, 1].
        scope: ``global`` compares all entries; ``tensor`` gives each tensor the same share.
        patterns: Shell globs of the parameters that are compared; None takes all in the file.

    Example:
        >>> from safetensors.torch import save_file
        >>> save_file({"weight": torch.tensor([[0.1, 0.9, 0.5]])}, "scores.safetensors")
        >>> LearnedScore("scores.safetensors", density=1 / 3).select(nn.Linear(3, 1))
        {'weight': tensor([[False,  True, False]]), 'bias': False}
    """

    def __init__(
        self, path: str | Path, density: float, scope: Scope = "global", patterns: list[str] | None = None
    ) -> None:
        super().__init__(density, scope, patterns)
        self.path = str(path)

    def _read(self) -> dict[str, Tensor]:
        return tensors_in("path", existing("path", self.path))

    def compared(self, index: ParameterIndex) -> list[str]:
        """The parameters of the file that match the patterns."""
        held = self._read()
        unknown = [name for name in held if name not in index.entries]
        if unknown:
            raise ConfigError("path", f"scores of {unknown[0]}", "scores of parameters of this network")
        return [name for name in super().compared(index) if name in held]

    def scores(self, index: ParameterIndex, base: nn.Module | None) -> Mapping[str, Score]:
        """The scores in the file."""
        found = {}
        for name, value in self._read().items():
            if value.shape != index[name].parameter.shape:
                raise ConfigError("path", f"scores of shape {tuple(value.shape)} for {name}", "those of this network")
            found[name] = _values(value.reshape(-1))
        return found


class TopUnits(Selection):
    """Whole heads or feed-forward units with the largest sum of scores.

    A head has its query rows and output columns; a feed-forward unit its rows in the input matrices and its column in
    the output matrix.

    Args:
        score: A selection by score; its own budget is not used.
        density: Share of the units of the network, in (0, 1].
        unit: ``head`` or ``feed_forward``.

    Source: top heads as in LoFiT, F. Yin et al., 2024, arXiv 2406.01563; units as in CoFiTune, 2024, arXiv 2404.10306.

    See also: :class:`~lit_ft.core.selection.Heads`, which takes the numbers of heads.

    Example:
        >>> from lit_ft.models.small import MLP
        >>> network = MLP((2,), 2, width=2, depth=2)
        >>> network.blocks[1].linear.weight.data[0] = 9.0
        >>> chosen = TopUnits(TopMagnitude(1.0), density=0.25, unit="feed_forward").select(network)
        >>> chosen["blocks.1.linear.bias"], chosen["blocks.0.linear.bias"]
        (tensor([ True, False]), False)
    """

    def __init__(self, score: Scored, density: float, unit: Literal["head", "feed_forward"] = "head") -> None:
        if not 0 < density <= 1:
            raise ConfigError("density", density, "a share in (0, 1]")
        self.score, self.density, self.unit = score, density, unit

    def choose(self, index: ParameterIndex, base: nn.Module | None) -> Choices:
        """Select the rows and columns of the units."""
        units = network_units(index, self.unit)
        (number,) = budgets(self.density, [len(units)], f"units ({self.unit})")
        scores = self.score.scores(index, base)
        sums: dict[tuple[str, int], Tensor] = {}
        totals = torch.zeros(len(units), dtype=torch.float64)
        for place, parts in enumerate(units):
            for name, (dim, rows) in parts.items():
                if (name, dim) not in sums:
                    shape = index[name].parameter.shape
                    score = scores[name](0, shape.numel()).reshape(shape).double()
                    sums[name, dim] = score.movedim(dim, 0).flatten(1).sum(1) if score.ndim > 1 else score
                totals[place] += sums[name, dim][rows].sum().cpu()
        chosen: dict[str, Tensor] = {}
        for place in totals.argsort(descending=True, stable=True)[:number].tolist():
            for name, part in units[place].items():
                if name not in chosen:
                    chosen[name] = torch.zeros(index[name].parameter.shape, dtype=torch.bool)
                mark(chosen[name], part)
        return dict(chosen)


def _difference(new: Tensor, old: Tensor) -> Score:
    return lambda start, stop: (wide(new[start:stop]) - wide(old[start:stop].to(new.device))).abs()


def _magnitude(value: Tensor, smallest: bool) -> Score:
    return lambda start, stop: wide(value[start:stop]).abs() * (-1 if smallest else 1)


def _values(value: Tensor) -> Score:
    return lambda start, stop: value[start:stop]
