"""Buffers of modules that do not train: batch-norm statistics and the like."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lit_ft.core.parameters import ParameterIndex
from lit_ft.core.selection.base import Choice


class HeldBuffers:
    """Keeps the values of the buffers of frozen modules, and their batch norms in evaluation mode.

    A module is frozen when it has parameters and none of them, nor of its children, is selected.

    Args:
        index: The parameters.
        choices: What is selected.

    Example:
        >>> network = nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 1))
        >>> buffers = HeldBuffers(ParameterIndex(network), {"1.weight": True, "1.bias": True})
        >>> buffers.freeze()
        >>> network[0].training, network[1].training
        (False, True)
    """

    def __init__(self, index: ParameterIndex, choices: Mapping[str, Choice]) -> None:
        moving = {id(index[name].parameter) for name, choice in choices.items() if choice is not False}
        self.norms: dict[nn.Module, bool] = {}
        self._buffers: dict[Tensor, Tensor] = {}
        for child in _frozen(index.module, moving):
            for module in child.modules():
                if isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats:
                    self.norms[module] = module.training
                for buffer in module.buffers(recurse=False):
                    self._buffers[buffer] = buffer.detach().clone()

    def freeze(self) -> None:
        """Put batch norms in evaluation mode (Lightning switches them back at times)."""
        for module in self.norms:
            module.training = False

    @torch.no_grad()
    def restore(self) -> None:
        """Write the buffers back."""
        for buffer, value in self._buffers.items():
            buffer.copy_(value)

    def release(self) -> None:
        """Put batch norms back in their previous modes."""
        for module, training in self.norms.items():
            module.training = training


def _frozen(module: nn.Module, moving: set[int]) -> list[nn.Module]:
    """The outermost modules below ``module`` that have parameters, none of them trained."""
    found: list[nn.Module] = []
    for child in module.children():
        parameters = [id(parameter) for parameter in child.parameters()]
        if parameters and not moving.intersection(parameters):
            found.append(child)
        else:
            found.extend(_frozen(child, moving))
    return found
