"""The layers of a network whose rows are units, and the norms after them."""

from typing import NamedTuple

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from lit_ft.core.errors import ConfigError

_MIXING = (nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm, nn.GLU, nn.Softmax, nn.PixelShuffle, nn.ChannelShuffle)


class UnitLayers(NamedTuple):
    """Names of modules: the arguments ``hidden``, ``head`` and ``norms`` of ``dropout_path``."""

    hidden: list[str]
    head: str
    norms: dict[str, str]


def unit_layers(network: nn.Module) -> UnitLayers:
    """The linear maps and convolutions in their order, and the norm after each.

    Refuses modules that mix units: layer norm, group norm, softmax, attention, convolutions of several groups.
    Operations of ``forward`` other than calls of modules are not seen; there must be no skip connections.

    Args:
        network: A network that calls its modules in the order in which they were registered.

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
