"""The loss along a path."""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lit_ft.connectivity.paths import Path
from lit_ft.core.batch_norm import update_batch_norm
from lit_ft.core.errors import ConfigError
from lit_ft.core.passes.means import sum_over_ranks

Forward = Callable[[nn.Module, Any], Any]


def member(network: nn.Module, state: dict[str, Tensor], batches: Iterable[Any], forward: Forward) -> nn.Module:
    """A copy of a network with other parameters, in evaluation mode.

    Args:
        network: Provides the structure, and all buffers but batch-norm statistics.
        state: Parameters by name.
        batches: Training batches to estimate batch-norm statistics from, as those of the ends do not fit in between.
            Not read without batch norm.
        forward: Runs a network on a batch.

    Example:
        >>> network = nn.Linear(1, 1, bias=False)
        >>> own = member(network, {"weight": torch.tensor([[2.0]])}, [], lambda network, x: network(x))
        >>> own.weight.item(), own is network
        (2.0, False)
    """
    own = copy.deepcopy(network)
    with torch.no_grad():
        for name, parameter in own.named_parameters():
            parameter.copy_(state[name])
    if any(isinstance(child, nn.modules.batchnorm._BatchNorm) for child in own.modules()):
        update_batch_norm(own, batches, forward)
    return own.eval()


@torch.no_grad()
def losses_along(
    network: nn.Module,
    path: Path,
    positions: Sequence[float],
    losses: Callable[[nn.Module, Any], Tensor],
    batches: Iterable[Any],
    train_batches: Iterable[Any] = (),
) -> list[float]:
    """The mean loss over all rows, at each position of a path.

    Cost: per position a pass over ``batches``, and one over ``train_batches`` with batch norm; one copy of the network.
    In a process group all ranks call it, each with its own batches; the mean is over the rows of all.

    Args:
        network: Provides the structure; not changed.
        path: Path between states of that network.
        positions: Positions from 0 to 1.
        losses: The loss of each row, from a network and a batch; shape (rows,).
        batches: Batches on which the loss is measured; read once per position.
        train_batches: Batches for batch-norm statistics, which are estimated at each position.

    See also: :class:`~lit_ft.metrics.Barrier`.

    Example:
        >>> from lit_ft.connectivity.paths import linear_path
        >>> path = linear_path({"weight": torch.tensor([[-1.0]])}, {"weight": torch.tensor([[1.0]])})
        >>> losses = lambda network, x: network(x).square()[:, 0]
        >>> losses_along(nn.Linear(1, 1, bias=False), path, [0.0, 0.5, 1.0], losses, [torch.ones(4, 1)])
        [1.0, 0.0, 1.0]
    """
    batches, train_batches = list(batches), list(train_batches)
    sums, rows = torch.zeros(len(positions), dtype=torch.float64), 0
    for i, position in enumerate(positions):
        there = member(network, path.at(position), train_batches, losses)
        values = [losses(there, batch).double() for batch in batches]
        sums[i], rows = sum(float(value.sum()) for value in values), sum(len(value) for value in values)
    total = sum_over_ranks(torch.tensor(rows))
    if total == 0:
        raise ConfigError("batches", "no rows", "rows to measure the loss on")
    return (sum_over_ranks(sums) / total).tolist()
