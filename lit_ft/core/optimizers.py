"""The optimizer of a method that is told none."""

from collections.abc import Iterable
from typing import Any

import torch


def adamw(params: Iterable[Any], lr: float = 1e-4, weight_decay: float = 0.01) -> torch.optim.Optimizer:
    """AdamW at rate 1e-4 with decay 0.01.

    A function, and not a class with arguments: in YAML an optimizer of another class takes over those arguments of the
    default class that it knows, so that SGD would decay weights although nobody asked for it.

    Args:
        params: Parameters or groups of them.
        lr: Learning rate.
        weight_decay: Decay of the weights, a share of the rate.

    Example:
        >>> optimizer = adamw([torch.zeros(1)], lr=1e-3)
        >>> optimizer.defaults["lr"], optimizer.defaults["weight_decay"]
        (0.001, 0.01)
    """
    return torch.optim.AdamW(params, lr=lr, weight_decay=weight_decay)
