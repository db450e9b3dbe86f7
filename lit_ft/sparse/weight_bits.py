"""A file with one bit for each masked weight."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from lit_ft.core.errors import ConfigError
from lit_ft.core.parameters import ParameterIndex
from lit_ft.sparse.coding import pack, unpack


def save_bits(path: str | Path, masks: Mapping[str, Tensor]) -> Path:
    """Write boolean masks by parameter name: N / 8 bytes for N weights, and the shapes.

    Example:
        >>> path = save_bits("mask.safetensors", {"weight": torch.tensor([[True, False]])})
        >>> load_bits(path)
        {'weight': tensor([[ True, False]])}
    """
    from safetensors.torch import save_file

    shapes = json.dumps({name: list(mask.shape) for name, mask in masks.items()})
    save_file({name: pack(mask.flatten().cpu()) for name, mask in masks.items()}, path, {"shapes": shapes})
    return Path(path)


def load_bits(path: str | Path) -> dict[str, Tensor]:
    """The masks of a file that ``save_bits`` wrote.

    Example:
        >>> path = save_bits("mask.safetensors", {"weight": torch.tensor([True, False])})
        >>> load_bits(path)["weight"]
        tensor([ True, False])
    """
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        shapes = json.loads((file.metadata() or {}).get("shapes", "null"))
        if shapes is None:
            raise ConfigError("path", str(path), "a file of bits that ForwardMask wrote")
        return {
            name: unpack(file.get_tensor(name), torch.Size(shape).numel()).reshape(shape)
            for name, shape in shapes.items()
        }


@torch.no_grad()
def mask_weights_(module: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set weights to 0 where their mask is False, in place; masks of another network are refused before any change.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> layer.weight.data = torch.tensor([[3.0, 4.0]])
        >>> mask_weights_(layer, {"weight": torch.tensor([[True, False]])})
        >>> layer.weight.data
        tensor([[3., 0.]])
    """
    parameters = ParameterIndex(module).parameters
    for name, mask in masks.items():
        if name not in parameters or parameters[name].shape != mask.shape:
            raise ConfigError(
                "masks", f"{name} of shape {tuple(mask.shape)}", "masks of the parameters of this network"
            )
    for name, mask in masks.items():
        parameters[name].mul_(mask.to(parameters[name].device))
