"""Batch-norm statistics for weights that no training step has used."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lit_ft.core.adapters import fixed_norms
from lit_ft.core.passes.evaluating import evaluating
from lit_ft.core.passes.means import sum_over_ranks


@torch.no_grad()
def update_batch_norm(
    module: nn.Module,
    batches: Iterable[Any],
    forward: Callable[[nn.Module, Any], Any] = lambda module, batch: module(batch),
) -> None:
    """Set batch-norm statistics to their plain mean over batches, at the present weights.

    Statistics of a base that is frozen beside an adapter stay. In a process group all ranks call it, each with its own
    batches; the mean is over the batches of all.

    Args:
        module: A module with or without batch norm.
        batches: Batches to run it on; without any, nothing changes.
        forward: Runs the module on a batch.

    Example:
        >>> norm = nn.BatchNorm1d(1)
        >>> update_batch_norm(norm, [torch.tensor([[0.0], [2.0]]), torch.tensor([[4.0], [6.0]])])
        >>> norm.running_mean, norm.running_var  # means over two batches
        (tensor([3.]), tensor([2.]))
    """
    fixed = fixed_norms(module)
    norms = [
        child
        for child in module.modules()
        if isinstance(child, _BatchNorm) and child.track_running_stats and child not in fixed
    ]
    batches = list(batches)
    if not norms or not batches:
        return
    momenta = {norm: norm.momentum for norm in norms}
    try:
        with evaluating(module):
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # a plain mean
                norm.train()
            for batch in batches:
                forward(module, batch)
        for norm in norms:
            _average_over_ranks(norm)
    finally:
        for norm, momentum in momenta.items():
            norm.momentum = momentum


def _average_over_ranks(norm: _BatchNorm) -> None:
    """Weigh the statistics of each rank by its batches."""
    assert norm.num_batches_tracked is not None
    mine = norm.num_batches_tracked.clone()
    if sum_over_ranks(norm.num_batches_tracked) == 0:  # a norm that the passes did not reach
        return
    for statistic in (norm.running_mean, norm.running_var):
        assert statistic is not None
        statistic.copy_(sum_over_ranks(statistic.double() * mine) / norm.num_batches_tracked)
