"""The default optimizer of a method."""

from collections.abc import Iterable
from typing import Any

import torch


def adamw(params: Iterable[Any], lr: float = 1e-4, weight_decay: float = 0.01) -> torch.optim.Optimizer:
    """AdamW at rate 1e-4 with decay 0.01.

    This is a function, not a class: in YAML, an optimizer of another class inherits the arguments that it shares with a
    default class, so that SGD would decay weights although nobody asked for it.

    Args:
        params: Parameters or groups of them.
        lr: Learning rate.
        weight_decay: Decoupled weight decay: a step shrinks each weight by the share ``lr * weight_decay``.

    Example:
        >>> optimizer = adamw([torch.zeros(1)], lr=1e-3)
        >>> optimizer.defaults["lr"], optimizer.defaults["weight_decay"]
        (0.001, 0.01)
    """
    return torch.optim.AdamW(params, lr=lr, weight_decay=weight_decay)
