"""Holding entries of parameters at their values through training."""

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lit_ft.core.selection.base import Choice, Choices, inverse

Outside = Literal["base", "zero"]


class Hold:
    """Keeps the entries outside a selection at their values, with any optimizer.

    The gradient outside is set to zero as soon as it is accumulated, so that clipping and every callback see the masked
    gradient; after each step the entries are written back, because weight decay and momentum move them without a
    gradient. Memory: a mask of one byte per entry, and the values outside.

    Args:
        parameters: The parameters by name.
        choices: What is trained: True, False or a mask; parameters that are trained as a whole need no entry.
        outside: ``base`` holds the present values, ``zero`` holds zeros.

    See also: :class:`~lit_ft.callbacks.GradientMask`, which does this in a training run.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> layer.weight.data = torch.ones(1, 2)
        >>> optimizer = torch.optim.SGD(layer.parameters(), lr=1.0, weight_decay=0.5)
        >>> hold = Hold({"weight": layer.weight}, {"weight": torch.tensor([[True, False]])}, outside="base")
        >>> hold.attach([optimizer])
        >>> layer(torch.ones(1, 2)).sum().backward()
        >>> optimizer.step()
        >>> layer.weight.data  # 1 - (1 + 0.5), and 1
        tensor([[-0.5000,  1.0000]])
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], choices: Choices, outside: Outside) -> None:
        self.zero = outside == "zero"
        self.outside: dict[nn.Parameter, Choice] = {}
        self.kept: dict[nn.Parameter, Tensor] = {}
        self._handles: list[RemovableHandle] = []
        for name, choice in choices.items():
            if choice is True:
                continue
            parameter, held = parameters[name], inverse(choice)
            held = held.to(parameter.device) if isinstance(held, Tensor) else held
            self.outside[parameter] = held
            if not self.zero:
                data = parameter.detach()
                self.kept[parameter] = data[held] if isinstance(held, Tensor) else data.clone()
        if self.zero:
            self.restore()

    @torch.no_grad()
    def restore(self) -> None:
        """Write the held values back."""
        for parameter, held in self.outside.items():
            if isinstance(held, Tensor):
                if self.zero:
                    parameter.masked_fill_(held, 0)
                else:
                    parameter.masked_scatter_(held, self.kept[parameter])
            elif self.zero:
                parameter.zero_()
            else:
                parameter.copy_(self.kept[parameter])

    def attach(self, optimizers: Iterable[Optimizer]) -> None:
        """Start to mask gradients and to restore after each step."""
        for parameter in self.outside:
            if parameter.requires_grad:
                self._handles.append(parameter.register_post_accumulate_grad_hook(self._mask))
        if any(parameter.requires_grad for parameter in self.outside):
            for optimizer in optimizers:
                self._handles.append(optimizer.register_step_post_hook(self._after_step))

    def _after_step(self, *_: object) -> None:
        self.restore()

    def _mask(self, parameter: Tensor) -> None:
        held, gradient = self.outside[parameter], parameter.grad  # type: ignore[index]
        if gradient is None:
            return
        if gradient.is_sparse:
            gradient = parameter.grad = gradient.to_dense()
        with torch.no_grad():
            if isinstance(held, Tensor):
                gradient.masked_fill_(held, 0)
            else:
                gradient.zero_()

    @torch.no_grad()
    def forget_momentum(self, optimizers: Iterable[Optimizer]) -> None:
        """Clear the optimizer state of held entries."""
        for optimizer in optimizers:
            for parameter, held in self.outside.items():
                if not isinstance(held, Tensor):
                    optimizer.state.pop(parameter, None)
                    continue
                for value in optimizer.state.get(parameter, {}).values():
                    if isinstance(value, Tensor) and value.shape == parameter.shape:
                        value.masked_fill_(held, 0)

    def detach(self) -> None:
        """Remove all hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
