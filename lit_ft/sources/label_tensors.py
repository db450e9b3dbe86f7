"""Labels of rows as tensors, of whatever source they are."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def class_counts(values: Sequence[Any], classes: int) -> list[int]:
    """Rows of each class.

    Example:
        >>> class_counts([0, 2, 2], classes=3), class_counts([0.5], classes=0)
        ([1, 0, 2], [])
    """
    if not classes or not len(values):
        return [0] * classes
    labels = label_tensor(values)
    return (torch.bincount(labels, minlength=classes) if labels.ndim == 1 else labels.sum(0).long()).tolist()


def label_tensor(values: Sequence[Any]) -> Tensor:
    """Labels of rows as a batch has them: int64 (rows,), float32 (rows, classes), or float32 (rows,).

    Example:
        >>> label_tensor([1, 0]), label_tensor([0.5])
        (tensor([1, 0]), tensor([0.5000]))
    """
    return torch.stack(list(values)).float() if isinstance(values[0], Tensor) else torch.tensor(values)
