"""Selected entries of one network in another one."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from lit_ft.core.selection.base import Choice, as_mask
from lit_ft.merging.merge import Merge
from lit_ft.merging.places import TensorPlace
from lit_ft.sparse.file import SavedSelection


class Graft(Merge):
    r"""The entries of a saved selection from the input, everything else from the base.

    .. math:: \theta = m\,\theta_{tuned} + (1-m)\,\theta_{base}

    Values are copied, not added.

    Args:
        selection: A file of ``save_selection``, such as ``graft.safetensors`` in the folder of a run with
            ``LearnedGraft``.

    Source: A. Panigrahi et al., "Task-Specific Skill Localization in Fine-tuned Language Models", 2023, arXiv
    2302.06600.

    See also: :func:`lit_ft.sparse.graft.graft`, for modules.

    Example:
        >>> from lit_ft.sparse.file import save_selection
        >>> path = save_selection("mask.safetensors", {"weight": torch.tensor([[True, False]])}, nn.Linear(2, 1))
        >>> merge = Graft(str(path))
        >>> merge.check({name: TensorPlace(name) for name in ("weight", "bias")}, 1, {"weight": (1, 2), "bias": (1,)})
        >>> merge.combine(TensorPlace("weight"), torch.zeros(1, 2), [torch.ones(1, 2)])
        tensor([[1., 0.]])
    """

    needs_base = True
    inputs = 1

    def __init__(self, selection: str) -> None:
        super().__init__()
        self.selection = selection
        self._choices: Mapping[str, Choice] = {}

    @override
    def check(
        self, places: Mapping[str, TensorPlace], number: int, shapes: Mapping[str, tuple[int, ...]] | None = None
    ) -> None:
        super().check(places, number, shapes)
        self._choices = SavedSelection(self.selection).select(_skeleton({n: (shapes or {})[n] for n in places}))

    @override
    def combine(self, place: TensorPlace, base: Tensor | None, inputs: Sequence[Tensor]) -> Tensor:
        if base is None:
            return self.without_base(place, inputs)
        choice = self._choices.get(place.name, False)
        if isinstance(choice, bool):
            return (inputs[0] if choice else base).clone()
        return torch.where(as_mask(choice, base), inputs[0], base)


def _skeleton(shapes: Mapping[str, tuple[int, ...]]) -> nn.Module:
    """A module with parameters of these names and shapes, and nothing in them."""
    root = nn.Module()
    for name, shape in shapes.items():
        *path, last = name.split(".")
        owner = root
        for part in path:
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = owner._modules[part]  # type: ignore[assignment]
        owner.register_parameter(last, nn.Parameter(torch.empty(shape, device="meta")))
    return root
