"""What a selection is, and how selections combine."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lit_ft.core.errors import ConfigError
from lit_ft.core.parameters import ParameterIndex

Choice = bool | Tensor
Choices = dict[str, Choice]


class Selection:
    """Which parameters are meant.

    ``select`` gives, for every unique parameter of a module by the network's own name (see ``ParameterIndex``), True,
    False, or a boolean tensor of the parameter's shape. It is deterministic, draws no global random number, and leaves
    the module as it was. Selections combine with ``&``, ``|`` and ``~``, or ``And``, ``Or`` and ``Not`` in YAML.

    Example:
        >>> from lit_ft.core.selection import Names
        >>> network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
        >>> (Names("*.weight") & ~Names("0.*")).select(network)
        {'0.weight': False, '0.bias': False, '1.weight': True, '1.bias': False}
    """

    def choose(self, index: ParameterIndex, base: nn.Module | None) -> Choices:
        """The choice for each parameter of ``index``; what is absent is not selected. A subclass implements it."""
        raise NotImplementedError(f"{type(self).__name__} defines choose(index, base)")

    def select(self, module: nn.Module, base: nn.Module | None = None) -> Choices:
        """True, False or a mask for each unique parameter.

        Args:
            module: The module whose parameters are meant.
            base: The network it was fine-tuned from, for selections by change that do not name one themselves.

        Raises:
            ConfigError: A pattern matches nothing, or a source does not fit the module.
        """
        index = ParameterIndex(module)
        chosen = self.choose(index, base)
        return {name: _plain(chosen.get(name, False), index[name].parameter) for name in index.entries}

    def redrawn(self, draw: int) -> "Selection":
        """The selection of a later stage or round; random ones differ from draw to draw, others stay the same."""
        return self

    def recipe(self) -> dict[str, Any] | None:
        """Plain arguments that give the same choice again without data, for small files; None where there are none."""
        return None

    def __and__(self, other: "Selection") -> "And":
        return And([self, other])

    def __or__(self, other: "Selection") -> "Or":
        return Or([self, other])

    def __invert__(self) -> "Not":
        return Not(self)


def _plain(choice: Choice, parameter: Tensor) -> Choice:
    """A mask of nothing as False, of everything as True: whole tensors can be frozen before the optimizer is made."""
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
        ConfigError: A name is not one of this network (the nearest are listed), or a mask has another shape or type.
    """
    own = {name if name in index.entries else index.match(name)[0]: choice for name, choice in choices.items()}
    return {name: _plain(choice, index[name].parameter) for name, choice in own.items()}


def both(a: Choice, b: Choice) -> Choice:
    """What is in a and in b."""
    if isinstance(a, bool):
        return b if a else False
    return (a if b else False) if isinstance(b, bool) else a & b


def either(a: Choice, b: Choice) -> Choice:
    """What is in a or in b."""
    if isinstance(a, bool):
        return True if a else b
    return (True if b else a) if isinstance(b, bool) else a | b


def inverse(a: Choice) -> Choice:
    """What is not in a."""
    return not a if isinstance(a, bool) else ~a


class _Combined(Selection):
    def __init__(self, selections: Sequence[Selection]) -> None:
        if not selections:
            raise ConfigError("selections", selections, "at least one selection")
        self.selections = list(selections)

    def redrawn(self, draw: int) -> Selection:
        """Each part of that draw."""
        return type(self)([selection.redrawn(draw) for selection in self.selections])


class And(_Combined):
    """What all of several selections choose.

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
        """What is in all."""
        parts = [selection.choose(index, base) for selection in self.selections]
        result = {name: parts[0].get(name, False) for name in index.entries}
        for part in parts[1:]:
            result = {name: both(choice, part.get(name, False)) for name, choice in result.items()}
        return result


class Or(_Combined):
    """What any of several selections chooses.

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
        """What is in any."""
        parts = [selection.choose(index, base) for selection in self.selections]
        result = {name: parts[0].get(name, False) for name in index.entries}
        for part in parts[1:]:
            result = {name: either(choice, part.get(name, False)) for name, choice in result.items()}
        return result


class Not(Selection):
    """What a selection leaves.

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
        """What is not in it."""
        chosen = self.selection.choose(index, base)
        return {name: inverse(chosen.get(name, False)) for name in index.entries}

    def redrawn(self, draw: int) -> Selection:
        """Not what that draw chooses."""
        return Not(self.selection.redrawn(draw))


def count(choices: Mapping[str, Choice], module: nn.Module) -> tuple[int, int]:
    """How many entries are selected, and how many there are.

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
    r"""Jaccard index :math:`|a \cap b| / |a \cup b|` of two choices over one network; 0 where both are empty.

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
    """A choice as a boolean tensor beside its parameter.

    Example:
        >>> as_mask(True, torch.zeros(3))
        tensor([True, True, True])
    """
    if isinstance(choice, Tensor):
        return choice.to(parameter.device)
    return torch.full(parameter.shape, choice, dtype=torch.bool, device=parameter.device)
