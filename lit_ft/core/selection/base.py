"""The base class of selections, and how selections combine."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lit_ft.core.errors import ConfigError
from lit_ft.core.parameters import ParameterIndex

Choice = bool | Tensor
Choices = dict[str, Choice]


class Selection:
    """A rule that selects parameters of a network.

    ``select`` returns, for every unique parameter of a module by the network's own name (see ``ParameterIndex``), True,
    False, or a boolean mask of the parameter's shape. It is deterministic, uses no global random state and does not
    change the module. Selections combine with ``&``, ``|`` and ``~``, or ``And``, ``Or`` and ``Not`` in YAML.

    Example:
        >>> from lit_ft.core.selection import Names
        >>> network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
        >>> (Names("*.weight") & ~Names("0.*")).select(network)
        {'0.weight': False, '0.bias': False, '1.weight': True, '1.bias': False}
    """

    def choose(self, index: ParameterIndex, base: nn.Module | None) -> Choices:
        """The choice for each parameter of ``index``; absent parameters are not selected. Subclasses implement this."""
        raise NotImplementedError(f"{type(self).__name__} defines choose(index, base)")

    def select(self, module: nn.Module, base: nn.Module | None = None) -> Choices:
        """True, False or a mask for each unique parameter.

        Args:
            module: The module whose parameters are selected.
            base: The network before fine-tuning, for selections by change that were not given one.

        Raises:
            ConfigError: A pattern matches nothing, or a source does not fit the module.
        """
        index = ParameterIndex(module)
        chosen = self.choose(index, base)
        return {name: _plain(chosen.get(name, False), index[name].parameter) for name in index.entries}

    def redrawn(self, draw: int) -> "Selection":
        """The selection for a later stage or round; random selections change with the draw, others stay the same."""
        return self

    def recipe(self) -> dict[str, Any] | None:
        """Plain arguments that reproduce the choice without stored masks, for small files; None if there are none."""
        return None

    def __and__(self, other: "Selection") -> "And":
        return And([self, other])

    def __or__(self, other: "Selection") -> "Or":
        return Or([self, other])

    def __invert__(self) -> "Not":
        return Not(self)


def _plain(choice: Choice, parameter: Tensor) -> Choice:
    """An empty mask becomes False and a full one True: whole tensors can be frozen before the optimizer is built."""
    if not isinstance(choice, Tensor):
        return choice
    if choice.shape != parameter.shape or choice.dtype != torch.bool:
        given = f"{choice.dtype} of shape {tuple(choice.shape)}"
        raise ConfigError("selection", given, f"a boolean mask of shape {tuple(parameter.shape)}")
    if not choice.any():
        return False
    return True if choice.all() else choice


def by_own_names(choices: Mapping[str, Choice], index: ParameterIndex) -> Choices:
    """Choices by the network's own names; names of a wrapping module and of tied copies are translated.

    Raises:
        ConfigError: A name is unknown in this network (the nearest are listed), or a mask has the wrong shape or type.
    """
    own = {name if name in index.entries else index.match(name)[0]: choice for name, choice in choices.items()}
    return {name: _plain(choice, index[name].parameter) for name, choice in own.items()}


def both(a: Choice, b: Choice) -> Choice:
    """The intersection of two choices."""
    if isinstance(a, bool):
        return b if a else False
    return (a if b else False) if isinstance(b, bool) else a & b


def either(a: Choice, b: Choice) -> Choice:
    """The union of two choices."""
    if isinstance(a, bool):
        return True if a else b
    return (True if b else a) if isinstance(b, bool) else a | b


def inverse(a: Choice) -> Choice:
    """The complement of a choice."""
    return not a if isinstance(a, bool) else ~a


class _Combined(Selection):
    def __init__(self, selections: Sequence[Selection]) -> None:
        if not selections:
            raise ConfigError("selections", selections, "at least one selection")
        self.selections = list(selections)

    def redrawn(self, draw: int) -> Selection:
        """The same combination of the redrawn selections."""
        return type(self)([selection.redrawn(draw) for selection in self.selections])


class And(_Combined):
    """The intersection of several selections.

    Args:
        selections: The selections.

    Example:
        >>> from lit_ft.core.selection import Names
        >>> And([Names("0.*"), Names("*.bias")]).select(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)))
        {'0.weight': False, '0.bias': True, '1.weight': False, '1.bias': False}
    """

    def __init__(self, selections: list[Selection]) -> None:
        super().__init__(selections)

    def choose(self, index: ParameterIndex, base: nn.Module | None) -> Choices:
        """Entries that all selections choose."""
        parts = [selection.choose(index, base) for selection in self.selections]
        result = {name: parts[0].get(name, False) for name in index.entries}
        for part in parts[1:]:
            result = {name: both(choice, part.get(name, False)) for name, choice in result.items()}
        return result


class Or(_Combined):
    """The union of several selections.

    Args:
        selections: The selections.

    Example:
        >>> from lit_ft.core.selection import Names
        >>> Or([Names("0.*"), Names("*.bias")]).select(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)))
        {'0.weight': True, '0.bias': True, '1.weight': False, '1.bias': True}
    """

    def __init__(self, selections: list[Selection]) -> None:
        super().__init__(selections)

    def choose(self, index: ParameterIndex, base: nn.Module | None) -> Choices:
        """Entries that any selection chooses."""
        parts = [selection.choose(index, base) for selection in self.selections]
        result = {name: parts[0].get(name, False) for name in index.entries}
        for part in parts[1:]:
            result = {name: either(choice, part.get(name, False)) for name, choice in result.items()}
        return result


class Not(Selection):
    """The complement of a selection.

    Args:
        selection: The selection.

    Example:
        >>> from lit_ft.core.selection import Names
        >>> Not(Names("bias")).select(nn.Linear(2, 1))
        {'weight': True, 'bias': False}
    """

    def __init__(self, selection: Selection) -> None:
        self.selection = selection

    def choose(self, index: ParameterIndex, base: nn.Module | None) -> Choices:
        """Entries that the selection does not choose."""
        chosen = self.selection.choose(index, base)
        return {name: inverse(chosen.get(name, False)) for name in index.entries}

    def redrawn(self, draw: int) -> Selection:
        """The complement of the redrawn selection."""
        return Not(self.selection.redrawn(draw))


def count(choices: Mapping[str, Choice], module: nn.Module) -> tuple[int, int]:
    """Number of selected entries, and number of all entries.

    Example:
        >>> count({"weight": True, "bias": False}, nn.Linear(4, 2))
        (8, 10)
    """
    parameters = ParameterIndex(module).parameters
    selected = sum(
        int(choice.sum()) if isinstance(choice, Tensor) else choice * parameters[name].numel()
        for name, choice in choices.items()
    )
    return selected, sum(parameter.numel() for parameter in parameters.values())


def overlap(a: Mapping[str, Choice], b: Mapping[str, Choice], module: nn.Module) -> float:
    r"""Jaccard index :math:`|a \cap b| / |a \cup b|` of two choices over one network; 0 if both are empty.

    See also: :func:`~lit_ft.core.selection.shared_parts`, which is not symmetric.

    Example:
        >>> overlap({"weight": True}, {"weight": True, "bias": True}, nn.Linear(4, 2))
        0.8
    """
    names = {*a, *b}
    shared, _ = count({name: both(a.get(name, False), b.get(name, False)) for name in names}, module)
    union, _ = count({name: either(a.get(name, False), b.get(name, False)) for name in names}, module)
    return shared / union if union else 0.0


def as_mask(choice: Choice, parameter: Tensor) -> Tensor:
    """A choice as a boolean tensor on the device of its parameter.

    Example:
        >>> as_mask(True, torch.zeros(3))
        tensor([True, True, True])
    """
    if isinstance(choice, Tensor):
        return choice.to(parameter.device)
    return torch.full(parameter.shape, choice, dtype=torch.bool, device=parameter.device)
