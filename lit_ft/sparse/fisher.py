"""Selection by the squared gradient over data."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from torch import Tensor, nn

from lit_ft.core.errors import ConfigError
from lit_ft.core.lightning import either
from lit_ft.core.parameters import ParameterIndex
from lit_ft.core.passes.means import sum_over_ranks
from lit_ft.sparse.scored import Scope, Scored
from lit_ft.sparse.top import Score

Batches = pl.LightningDataModule | Iterable[Any]


class Fisher(Scored):
    r"""The entries with the largest diagonal of the empirical Fisher matrix, :math:`E[(\partial L / \partial w)^2]`.

    The mean is over batches, each with the gradient of its mean loss; with batches of one row it is the empirical
    Fisher matrix of the rows. Under several processes it is over the batches of all of them, so that all select the
    same. The module runs in evaluation mode, without side effects. Cost: one forward and backward pass per batch, and
    two copies of the weights.

    Args:
        density: Share of the entries, in (0, 1].
        data: A data module (its training batches are read) or, in Python, an iterable of batches.
        num_batches: Number of batches that each process reads.
        loss: In Python, (module, batch) to a loss; None takes the module's ``training_step``.
        least: Take the entries with the smallest values instead.
        scope: ``global`` compares all entries; ``tensor`` gives each tensor the same share.
        patterns: Shell globs of the parameters that are compared; None takes all.

    Example:
        >>> batches = [torch.tensor([3.0, 0.0, 1.0])]
        >>> module = nn.Linear(3, 1, bias=False)
        >>> Fisher(density=1 / 3, data=batches, loss=lambda module, x: module(x).sum()).select(module)
        {'weight': tensor([[ True, False, False]])}
    """

    def __init__(
        self,
        density: float,
        data: Batches,
        num_batches: int = 32,
        loss: Callable[[nn.Module, Any], Tensor] | None = None,
        least: bool = False,
        scope: Scope = "global",
        patterns: list[str] | None = None,
    ) -> None:
        super().__init__(density, scope, patterns)
        if num_batches < 1:
            raise ConfigError("num_batches", num_batches, "a whole number of at least 1")
        self.data, self.num_batches, self.loss, self.least = data, num_batches, loss, least

    def scores(self, index: ParameterIndex, base: nn.Module | None) -> Mapping[str, Score]:
        """The mean of the squared gradient."""
        parameters = index.parameters
        total = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
        number = 0
        for gradients in batch_gradients(index.module, parameters, self.data, self.num_batches, self.loss):
            for name, gradient in gradients.items():
                total[name].addcmul_(gradient, gradient)
            number += 1
        number = int(sum_over_ranks(torch.tensor(number)))
        sign = -1 if self.least else 1
        return {name: _slices(sum_over_ranks(value).flatten().mul_(sign / number)) for name, value in total.items()}


def batch_gradients(
    module: nn.Module,
    parameters: Mapping[str, Tensor],
    data: Batches,
    num_batches: int,
    loss: Callable[[nn.Module, Any], Tensor] | None,
) -> Iterator[dict[str, Tensor]]:
    """The gradient of each batch's mean loss in float32; parameters without a gradient are absent.

    The module runs in evaluation mode, without side effects.

    Args:
        module: The module.
        parameters: Parameters to differentiate by, by name; frozen ones too.
        data: A data module, whose training batches are read, or batches.
        num_batches: Largest number of batches.
        loss: (module, batch) to a loss; None takes the module's own.

    Example:
        >>> layer, batches = nn.Linear(2, 1), [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])]
        >>> found = batch_gradients(layer, {"weight": layer.weight}, batches, 2, lambda layer, x: layer(x).sum())
        >>> [gradients["weight"] for gradients in found]
        [tensor([[1., 2.]]), tensor([[3., 4.]])]
    """
    from lit_ft.core.passes.second_pass import without_trace

    flags = {name: parameter.requires_grad for name, parameter in parameters.items()}
    number = 0
    with without_trace(None, module), torch.enable_grad():
        module.eval()
        try:
            for parameter in parameters.values():
                parameter.requires_grad_(True)
            for batch in _batches(data, num_batches):
                batch = move_data_to_device(batch, next(iter(parameters.values())).device)
                gradients = torch.autograd.grad(
                    _loss(module, batch, loss), list(parameters.values()), allow_unused=True
                )
                number += 1
                found = zip(parameters, gradients, strict=True)
                yield {name: gradient.float() for name, gradient in found if gradient is not None}
        finally:
            for name, parameter in parameters.items():
                parameter.requires_grad_(flags[name])
    if not number:
        raise ConfigError("data", "no batch", "data with at least one batch")


def _batches(data: Batches, number: int) -> Iterator[Any]:
    if not isinstance(data, either(pl.LightningDataModule)):
        yield from islice(data, number)  # type: ignore[arg-type]
        return
    data.prepare_data()
    data.setup("fit")
    yield from islice(data.train_dataloader(), number)


def _loss(module: nn.Module, batch: Any, loss: Callable[[nn.Module, Any], Tensor] | None) -> Tensor:
    if loss is not None:
        return loss(module, batch)
    if not isinstance(module, either(pl.LightningModule)):
        raise ConfigError("loss", None, "a function (module, batch) -> loss, for a module without training_step")
    output = module.training_step(batch, 0)
    return output["loss"] if isinstance(output, Mapping) else output  # type: ignore[return-value]


def _slices(value: Tensor) -> Score:
    return lambda start, stop: value[start:stop]
