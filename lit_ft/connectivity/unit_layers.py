"""Which parameters of a network belong to which of its units."""

from typing import NamedTuple

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from lit_ft.core.errors import ConfigError

_MIXING = (nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm, nn.GLU, nn.Softmax, nn.PixelShuffle, nn.ChannelShuffle)


class UnitLayers(NamedTuple):
    """Names of modules; the arguments of ``dropout_path`` that follow the states."""

    hidden: list[str]
    head: str
    norms: dict[str, str]


def unit_layers(network: nn.Module) -> UnitLayers:
    """The linear maps and convolutions in their order, and the norm after each.

    Refuses modules that mix units: layer norm, group norm, softmax, attention, convolutions of several groups. What a
    ``forward`` does beside calling its modules is not seen: a path around a layer must not be there.

    Args:
        network: Its modules are called in the order in which they were registered.

    Example:
        >>> unit_layers(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)))
        UnitLayers(hidden=['0'], head='4', norms={'0': '1'})
    """
    found: list[str] = []
    norms: dict[str, str] = {}
    for name, child in network.named_modules():
        if isinstance(child, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)) and getattr(child, "groups", 1) == 1:
            found.append(name)
        elif isinstance(child, _NormBase) and found and found[-1] not in norms:  # batch norm and instance norm
            norms[found[-1]] = name
        elif isinstance(child, _MIXING) or any(True for _ in child.parameters(recurse=False)):
            allowed = "linear maps, convolutions of one group, and after each at most one batch norm or instance norm"
            raise ConfigError("network", f"{name} ({type(child).__name__})", allowed)
    if not found:
        raise ConfigError("network", type(network).__name__, "a network with linear maps or convolutions")
    return UnitLayers(found[:-1], found[-1], norms)
