"""The entries that fine-tuning changed, as a small file in addition to the base."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from lit_ft.core.errors import ConfigError, existing
from lit_ft.core.parameters import ParameterIndex
from lit_ft.core.selection.base import Choice, Choices, Selection, by_own_names
from lit_ft.core.weights import Source, weights_of, wide
from lit_ft.sparse.coding import decode_mask, encode_mask
from lit_ft.sparse.random_parts import RandomElements, RandomHalf

Mode = Literal["replace", "add"]
_KEY = "lit_ft.sparse_delta"
_SAMPLES, _CHUNK = 4096, 1 << 22
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.int64}


@dataclass
class SparseDelta:
    """The entries of a network that fine-tuning changed.

    ``replace`` holds the tuned values: exact in every dtype. ``add`` holds the differences in float32 or the type of
    the weights, whichever is wider; they can be summed over tasks (and are exact to rounding). To undo a delta, load
    the base again: subtraction would be lossy.

    Args:
        mode: ``replace`` or ``add``.
        choices: The changed entries: True or a mask for each parameter that has some.
        values: The values of the selected entries, flat, in their order, for each of these parameters.
        base: Fingerprints of the base, by name of the parameters that must be the same.
        recipe: Arguments of a random selection that reproduces ``choices``; the file then holds no positions.

    Source: the idea of gap-coded files follows A. Ansell et al., "Composable Sparse Fine-Tuning", 2022, arXiv
    2110.07560.

    See also: :func:`~lit_ft.sparse.graft.graft`, which makes the network at once.

    Example:
        >>> base, tuned = nn.Linear(3, 1), nn.Linear(3, 1)
        >>> tuned.load_state_dict(base.state_dict())
        <All keys matched successfully>
        >>> tuned.weight.data[0, 1] += 1
        >>> delta = SparseDelta.between(base, tuned)
        >>> delta = SparseDelta.load(delta.save("delta.safetensors"))
        >>> delta.numel, torch.equal(delta.apply_(base).weight, tuned.weight)
        (1, True)
    """

    mode: Mode
    choices: Choices
    values: dict[str, Tensor]
    base: dict[str, str]
    recipe: dict[str, Any] | None = None

    @classmethod
    @torch.no_grad()
    def between(
        cls,
        base: nn.Module,
        tuned: Source | Path,
        selection: Selection | Mapping[str, Choice] | None = None,
        mode: Mode = "replace",
    ) -> Self:
        """The difference between ``base`` and ``tuned`` at the selected entries.

        Args:
            base: The network before fine-tuning.
            tuned: The network after it (module, ``.safetensors`` file or folder, checkpoint, run folder).
            selection: The entries to keep; None means those that differ.
            mode: ``replace`` or ``add``.
        """
        if mode not in ("replace", "add"):
            raise ConfigError("mode", mode, "replace or add")
        index = ParameterIndex(base)
        old, new = weights_of("base", base, index), weights_of("tuned", tuned, index)
        recipe = None
        if selection is None:
            choices: Mapping[str, Choice] = {name: new[name].to(old[name].device) != old[name] for name in old}
        elif isinstance(selection, Selection):
            recipe = selection.recipe()
            choices = selection.select(tuned if isinstance(tuned, nn.Module) else base, base)
        else:
            choices = by_own_names(selection, index)
        kept = {name: choice for name, choice in choices.items() if isinstance(choice, Tensor) or choice}
        values = {}
        for name, choice in kept.items():
            value = new[name].cpu() if mode == "replace" else wide(new[name].cpu()) - wide(old[name].cpu())
            values[name] = _selected(value, choice).clone()
        return cls(mode, dict(kept), values, _fingerprints(old, kept, mode), recipe)

    @property
    def numel(self) -> int:
        """The number of entries that the delta holds."""
        return sum(value.numel() for value in self.values.values())

    @torch.no_grad()
    def apply_(self, module: nn.Module) -> nn.Module:
        """Write the delta into a module that holds the base, in place; returns the module.

        Raises:
            ConfigError: The module is not the base of this delta, or has other parameters.
        """
        index = ParameterIndex(module)
        self.check(index)
        for name, choice in self.choices.items():
            parameter = index[name].parameter
            value = self.values[name].to(parameter.device)
            before = _selected(parameter, choice)
            after = (value if self.mode == "replace" else wide(before) + value).to(parameter.dtype)
            if isinstance(choice, Tensor):
                parameter.masked_scatter_(choice.to(parameter.device), after)
            else:
                parameter.copy_(after.view(parameter.shape))
        return module

    def check(self, index: ParameterIndex) -> None:
        """Refuse a network that is not the base of this delta."""
        absent = [name for name in {**self.choices, **self.base} if name not in index.entries]
        if absent:
            raise ConfigError("module", f"a network without {absent[0]}", "the base of this delta")
        for name, choice in self.choices.items():
            shape = index[name].parameter.shape
            wanted = choice.shape if isinstance(choice, Tensor) else None
            if (wanted is not None and wanted != shape) or (
                wanted is None and self.values[name].numel() != shape.numel()
            ):
                raise ConfigError("module", f"{name} of shape {tuple(shape)}", "the base of this delta")
        for name in index.entries.keys() - self.base.keys() - self.choices.keys():
            copies = (n for n in self.choices if _same_matrix(index[n].parameter, index[name].parameter))
            twin = next(copies, None)
            if twin is not None:
                raise ConfigError("module", f"{name}, a copy of {twin}", "the base of this delta, where they are tied")
        for name, known in self.base.items():
            if _fingerprint(index[name].parameter) != known:
                raise ConfigError("module", f"other weights in {name}", "the base of this delta, unchanged")

    @classmethod
    def sum(cls, deltas: Sequence["SparseDelta"]) -> "SparseDelta":
        """One delta that adds all of several ``add`` deltas of one base (language and task, or several tasks).

        Source: composition as in LT-SFT, arXiv 2110.07560.

        Example:
            >>> deltas = []
            >>> base = nn.Linear(2, 1, bias=False)
            >>> for change in ([1.0, 0.0], [0.0, 2.0]):
            ...     tuned = nn.Linear(2, 1, bias=False)
            ...     tuned.weight.data = base.weight.data + torch.tensor([change])
            ...     deltas.append(SparseDelta.between(base, tuned, mode="add"))
            >>> SparseDelta.sum(deltas).values["weight"]
            tensor([1., 2.])
        """
        if not deltas or any(delta.mode != "add" for delta in deltas):
            modes = [delta.mode for delta in deltas]
            raise ConfigError("deltas", modes, "at least one delta, all of mode add")
        base: dict[str, str] = {}
        for delta in deltas:
            for name, known in delta.base.items():
                if base.setdefault(name, known) != known:
                    raise ConfigError("deltas", f"two bases (they differ in {name})", "deltas of one base")
        choices, values = {}, {}
        for name in dict.fromkeys(name for delta in deltas for name in delta.choices):
            parts = [(delta.choices[name], delta.values[name]) for delta in deltas if name in delta.choices]
            choices[name], values[name] = _summed(parts)
        return cls("add", choices, values, base)

    def save(self, path: str | Path) -> Path:
        """Write a ``.safetensors`` file: positions as gaps or bits, whichever is smaller, none for random selections.

        At 1 % density in float32 the file is within 3 % of the entropy of positions plus values.
        """
        from safetensors.torch import save_file

        path = Path(path)
        tensors, kinds, shapes = {}, {}, {}
        for name, choice in self.choices.items():
            tensors[f"{name}::values"] = self.values[name].contiguous()
            if isinstance(choice, Tensor):
                shapes[name] = list(choice.shape)
                if self.recipe is None:
                    kinds[name], tensors[f"{name}::positions"] = encode_mask(choice)
        check = _choices_digest(self.choices) if self.recipe else None
        note: dict[str, Any] = {"version": 1, "mode": self.mode, "base": self.base, "kinds": kinds, "shapes": shapes}
        note |= {"recipe": self.recipe, "choices": check, "names": list(self.choices)}
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path, metadata={_KEY: json.dumps(note)})
        return path

    @classmethod
    def load(cls, path: str | Path, module: nn.Module | None = None) -> "SparseDelta":
        """Read a file.

        Args:
            path: The file.
            module: A network of the same structure; needed for files of random selections, which hold no positions.
        """
        from safetensors import SafetensorError, safe_open

        file = existing("path", str(path))
        try:
            with safe_open(file, framework="pt") as opened:
                note = json.loads((opened.metadata() or {}).get(_KEY, "null"))
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        except (SafetensorError, OSError):
            note, tensors = None, {}
        if note is None:
            raise ConfigError("path", str(path), "a file written by SparseDelta.save")
        choices: Choices = dict.fromkeys(note["names"], True)
        if note["recipe"]:
            choices = _redrawn(note, module)
        else:
            for name, kind in note["kinds"].items():
                shape = torch.Size(note["shapes"][name])
                choices[name] = decode_mask(kind, tensors[f"{name}::positions"], shape)
        values = {name: tensors[f"{name}::values"] for name in note["names"]}
        return cls(note["mode"], choices, values, note["base"], note["recipe"])


def _selected(value: Tensor, choice: Choice) -> Tensor:
    return value[choice.to(value.device)] if isinstance(choice, Tensor) else value.flatten()


def _summed(parts: Sequence[tuple[Choice, Tensor]]) -> tuple[Choice, Tensor]:
    masks = [choice for choice, _ in parts if isinstance(choice, Tensor)]
    if not masks:
        return True, torch.stack([value for _, value in parts]).sum(0)
    total = torch.zeros(masks[0].shape, dtype=parts[0][1].dtype)
    union = torch.zeros(masks[0].shape, dtype=torch.bool)
    for choice, value in parts:
        mask = choice if isinstance(choice, Tensor) else torch.ones_like(union)
        total[mask] += value
        union |= mask
    return union, total[union]


def _same_matrix(a: Tensor, b: Tensor) -> bool:
    return a.ndim > 1 and a.shape == b.shape and torch.equal(a, b)


def _fingerprint(tensor: Tensor) -> str:
    """A digest of shape, type, values at even distances, and the sum of all bits, which any changed entry changes."""
    flat = tensor.detach().reshape(-1)
    sample = flat[:: max(1, flat.numel() // _SAMPLES)].cpu().contiguous()
    total = sum(int(part.sum(dtype=torch.int64)) for part in flat.view(_BITS[flat.element_size()]).split(_CHUNK))
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)} {total}".encode())
    digest.update(sample.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _fingerprints(old: Mapping[str, Tensor], kept: Mapping[str, Choice], mode: Mode) -> dict[str, str]:
    """Fingerprints of all parameters but those that are replaced as a whole: a new head may differ."""
    return {name: _fingerprint(t) for name, t in old.items() if not (mode == "replace" and kept.get(name) is True)}


def _choices_digest(choices: Mapping[str, Choice]) -> str:
    digest = hashlib.sha256()
    for name in sorted(choices):
        choice = choices[name]
        digest.update(name.encode())
        if isinstance(choice, Tensor):
            digest.update(encode_mask(choice)[1].view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _redrawn(note: Mapping[str, Any], module: nn.Module | None) -> Choices:
    if module is None:
        raise ConfigError("module", None, "a network of the same structure: the file holds the seed of a random draw")
    arguments = dict(note["recipe"])
    kinds = {"RandomElements": RandomElements, "RandomHalf": RandomHalf}
    drawn = kinds[arguments.pop("class")](**arguments).select(module)
    choices = {name: choice for name, choice in drawn.items() if isinstance(choice, Tensor) or choice}
    if _choices_digest(choices) != note["choices"]:
        raise ConfigError("module", "a network whose random draw differs", "a network of the same structure")
    return choices
