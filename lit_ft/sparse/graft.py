"""A network with some weights from one network and the others from another."""

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from lit_ft.core.parameters import ParameterIndex
from lit_ft.core.selection.base import Choice, Selection, as_mask, by_own_names
from lit_ft.core.weights import Source, weights_of


@torch.no_grad()
def graft(base: nn.Module, tuned: Source | Path, selection: Selection | Mapping[str, Choice]) -> nn.Module:
    r"""A copy of ``base`` with :math:`\theta = m\,\theta_{tuned} + (1-m)\,\theta_{base}`, values copied, not added.

    Selecting everything gives the tuned weights bit by bit, selecting nothing those of the base. Tied weights stay
    tied. Buffers are those of the base.

    Args:
        base: The network that is copied.
        tuned: The source of the selected weights (module, file, folder, checkpoint).
        selection: What is taken from ``tuned``; a ``Selection`` is applied to ``tuned`` if that is a module, else to a
            copy of ``base``.

    Source: A. Panigrahi et al., "Task-Specific Skill Localization in Fine-tuned Language Models", 2023, arXiv
    2302.06600.

    See also: :class:`~lit_ft.sparse.sparse_delta.SparseDelta`.

    Example:
        >>> base, tuned = nn.Linear(2, 1), nn.Linear(2, 1)
        >>> grafted = graft(base, tuned, {"weight": True})
        >>> torch.equal(grafted.weight, tuned.weight), torch.equal(grafted.bias, base.bias)
        (True, True)
    """
    grafted = copy.deepcopy(base)
    index = ParameterIndex(grafted)
    values = weights_of("tuned", tuned, index)
    if isinstance(selection, Selection):
        choices = selection.select(tuned if isinstance(tuned, nn.Module) else grafted, base)
    else:
        choices = by_own_names(selection, index)
    copy_selected_(index.parameters, values, choices)
    return grafted


@torch.no_grad()
def copy_selected_(into: Mapping[str, Tensor], values: Mapping[str, Tensor], choices: Mapping[str, Choice]) -> None:
    """Copy the selected entries of ``values`` over those of ``into``, in place.

    Example:
        >>> weights = {"w": torch.zeros(3)}
        >>> copy_selected_(weights, {"w": torch.ones(3)}, {"w": torch.tensor([True, False, True])})
        >>> weights["w"]
        tensor([1., 0., 1.])
    """
    for name, target in into.items():
        choice = choices.get(name, False)
        if choice is False:
            continue
        value = values[name].to(target)
        target.copy_(value if choice is True else torch.where(as_mask(choice, target), value, target))
