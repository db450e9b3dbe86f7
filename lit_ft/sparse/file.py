"""Selections as small files that identify their network."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from lit_ft.core.errors import ConfigError, existing
from lit_ft.core.parameters import ParameterIndex
from lit_ft.core.selection.base import Choice, Choices, Selection
from lit_ft.sparse.coding import decode_mask, encode_mask

_KEY = "lit_ft.selection"


def structure(index: ParameterIndex) -> str:
    """Fingerprint of the names and shapes of a network's parameters."""
    text = ";".join(f"{name} {tuple(parameter.shape)}" for name, parameter in sorted(index.parameters.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def save_selection(path: str | Path, choices: Mapping[str, Choice], module: nn.Module) -> Path:
    """Write choices as a ``.safetensors`` file: whole tensors by name, masks as gaps or bits, whichever is smaller.

    Args:
        path: The file.
        choices: Choices from ``Selection.select``.
        module: The module that they select from.

    Example:
        >>> from lit_ft.core.selection import Names
        >>> network = nn.Linear(2, 2)
        >>> path = save_selection("bias.safetensors", Names("bias").select(network), network)
        >>> SavedSelection(path).select(network)
        {'weight': False, 'bias': True}
    """
    from safetensors.torch import save_file

    index, path = ParameterIndex(module), Path(path)
    tensors, kinds = {}, {}
    for name, choice in choices.items():
        if isinstance(choice, Tensor):
            kinds[name], tensors[name] = encode_mask(choice)
    whole = [name for name, choice in choices.items() if choice is True]
    note = {"version": 1, "structure": structure(index), "whole": whole, "kinds": kinds}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={_KEY: json.dumps(note)})
    return path


class SavedSelection(Selection):
    """A selection from a file of ``save_selection``.

    Args:
        path: The file. One that was written for a network with other names or shapes is refused.

    See also: :func:`save_selection`.

    Example:
        >>> network = nn.Linear(3, 1)
        >>> mask = torch.tensor([[True, False, True]])
        >>> path = save_selection("mask.safetensors", {"weight": mask}, network)
        >>> SavedSelection(path).select(network)
        {'weight': tensor([[ True, False,  True]]), 'bias': False}
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)

    def choose(self, index: ParameterIndex, base: nn.Module | None) -> Choices:
        """The choices in the file."""
        from safetensors import SafetensorError, safe_open

        file = existing("path", self.path)
        try:
            with safe_open(file, framework="pt") as opened:
                note = json.loads((opened.metadata() or {}).get(_KEY, "null"))
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        except (SafetensorError, OSError):
            note, tensors = None, {}
        if note is None:
            raise ConfigError("path", self.path, "a file written by save_selection")
        if note["structure"] != structure(index):
            known = {*note["whole"], *note["kinds"]}
            foreign = next((name for name in sorted(known) if name not in index.entries), "other names or shapes")
            raise ConfigError("path", f"{self.path} (made for another network: {foreign})", "a file for this network")
        shapes = {name: parameter.shape for name, parameter in index.parameters.items()}
        masks = {name: decode_mask(note["kinds"][name], content, shapes[name]) for name, content in tensors.items()}
        return {**dict.fromkeys(note["whole"], True), **masks}


def plain_choices(choices: Mapping[str, Choice]) -> dict[str, bool | tuple[str, list[int], torch.Tensor]]:
    """Choices as small plain data, for a checkpoint."""
    plain: dict[str, bool | tuple[str, list[int], Tensor]] = {}
    for name, choice in choices.items():
        if isinstance(choice, Tensor):
            kind, content = encode_mask(choice)
            plain[name] = kind, list(choice.shape), content
        else:
            plain[name] = choice
    return plain


def choices_of(plain: Mapping[str, bool | tuple[str, list[int], torch.Tensor]]) -> Choices:
    """Choices from the plain data of ``plain_choices``."""
    return {
        name: value if isinstance(value, bool) else decode_mask(value[0], value[2].cpu(), torch.Size(value[1]))
        for name, value in plain.items()
    }
