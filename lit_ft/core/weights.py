"""Weights from a module, file, folder or checkpoint, by the parameter names of a network."""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from lit_ft.core.archive import read
from lit_ft.core.errors import ConfigError, existing
from lit_ft.core.parameters import ParameterIndex

Source = nn.Module | str  # in Python also a Path; annotated as one, any text in YAML would become a path


def weights_of(argument: str, source: Source | Path | Mapping[str, Tensor], index: ParameterIndex) -> dict[str, Tensor]:
    """A tensor for every parameter of ``index``; nothing is copied, and files are mapped into memory.

    Args:
        argument: Name of the argument, for errors.
        source: A module; a ``.safetensors`` file, a folder that holds some, a checkpoint of Lightning or torch, a run
            folder; or a mapping of tensors.
        index: The parameters to look up.

    Raises:
        ConfigError: A parameter is absent, or has another shape.

    Example:
        >>> from safetensors.torch import save_file
        >>> save_file({"weight": torch.ones(1, 2), "bias": torch.zeros(1)}, "model.safetensors")
        >>> weights_of("tuned", "model.safetensors", ParameterIndex(nn.Linear(2, 1)))
        {'weight': tensor([[1., 1.]]), 'bias': tensor([0.])}
    """
    if isinstance(source, nn.Module):
        tensors: Mapping[str, Tensor] = {
            name: entry.parameter.detach() for entry in ParameterIndex(source).values() for name in entry.names
        }
    else:
        tensors = _read(argument, source) if isinstance(source, (str, Path)) else source
    found: dict[str, Tensor] = {}
    for entry in index.values():
        names = [prefix + name for prefix in ("", "network.", "model.") for name in entry.names]
        name = next((name for name in names if name in tensors), None)
        if name is None:
            raise ConfigError(argument, f"weights without {entry.name}", "weights of the same network")
        if tensors[name].shape != entry.parameter.shape:
            shapes = tuple(tensors[name].shape), tuple(entry.parameter.shape)
            raise ConfigError(argument, f"{entry.name} of shape {shapes[0]}", f"the shape {shapes[1]} of this network")
        found[entry.name] = tensors[name].detach()
    return found


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float32, or in its own type if that is wider; differences are computed in it.

    Example:
        >>> wide(torch.zeros(2, dtype=torch.bfloat16)).dtype, wide(torch.zeros(2, dtype=torch.float64)).dtype
        (torch.float32, torch.float64)
    """
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _read(argument: str, source: str | Path) -> dict[str, Tensor]:
    path = existing(argument, source)
    if path.is_dir():
        path = _newest_checkpoint(path) or path
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files:
        raise ConfigError(argument, str(source), "a folder with .safetensors files or checkpoints, or one such file")
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= tensors_in(argument, file)
    return tensors


def tensors_in(argument: str, file: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file, or the weights in a checkpoint of Lightning or torch, mapped into memory.

    Raises:
        ConfigError: It is another kind of file, or incomplete, or holds more than tensors and plain data.
    """
    return tensors_and_notes(argument, file)[0]


def tensors_and_notes(argument: str, file: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """What :func:`tensors_in` gives, and what a checkpoint says beside; read once."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if file.suffix == ".safetensors":
            return load_file(file), {}
        loaded = read(argument, file, map_location="cpu", mmap=True)
    except (SafetensorError, OSError, RuntimeError, UnpicklingError, EOFError):
        loaded = None
    notes = loaded if isinstance(loaded, Mapping) else {}
    found = notes.get("state_dict", notes)
    tensors = {name: value for name, value in found.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ConfigError(argument, str(file), "a whole .safetensors file, or a checkpoint with weights")
    return tensors, notes


def _newest_checkpoint(folder: Path) -> Path | None:
    found = [*folder.glob("checkpoints/*.ckpt"), *folder.glob("*.ckpt")]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)
