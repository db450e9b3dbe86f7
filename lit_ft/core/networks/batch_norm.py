"""Batch-norm statistics for weights that no training step has seen."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lit_ft.core.passes.evaluating import evaluating


@torch.no_grad()
def update_batch_norm(
    module: nn.Module,
    batches: Iterable[Any],
    forward: Callable[[nn.Module, Any], Any] = lambda module, batch: module(batch),
) -> None:
    """Set batch-norm statistics to their plain mean over batches, at the present weights.

    Args:
        module: A module with or without batch norm.
        batches: What it is run on; none leaves everything as it is.
        forward: How it is run.
    """
    norms = [child for child in module.modules() if isinstance(child, _BatchNorm) and child.track_running_stats]
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
    finally:
        for norm, momentum in momenta.items():
            norm.momentum = momentum
