"""Kinds of batches: a method and a data module fit together when both name the same ``TypedDict`` as ``batch``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, is_typeddict

if TYPE_CHECKING:
    from torch import Tensor


def kind_of(owner: object) -> str:
    """The kind of batch that a method reads or a data module gives; empty where its class names no ``TypedDict``.

    Args:
        owner: A method or a data module; its class attribute ``batch`` is a ``TypedDict``.

    Example:
        >>> from lit_ft.data import GaussianClusters
        >>> from lit_ft.methods import DPO, ImageClassifier
        >>> kind_of(ImageClassifier), kind_of(GaussianClusters), kind_of(DPO)
        ('images', 'images', 'preferences')
    """
    batch = getattr(owner, "batch", None)
    return kind_name(batch.__name__) if is_typeddict(batch) else ""  # type: ignore[union-attr]


def kind_name(name: str) -> str:
    """The kind of a ``TypedDict`` by its name, in snake case without ``Batch``.

    Example:
        >>> kind_name("ScoredTextBatch")
        'scored_text'
    """
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name.removesuffix("Batch")).lower()


def rows_of(batch: Any) -> int | None:
    """How many rows a batch has: the length that all its tensors share; None where they do not tell.

    Args:
        batch: A tensor, or a list, tuple or mapping with tensors, nested in any way.

    Example:
        >>> rows_of([torch.zeros(3, 5), {"labels": torch.zeros(3), "temperature": torch.tensor(1.0)}])
        3
        >>> rows_of([torch.zeros(3, 5), torch.zeros(2)]) is None
        True
    """
    lengths = {len(tensor) for tensor in _tensors(batch) if tensor.ndim}
    return lengths.pop() if len(lengths) == 1 else None


def _tensors(value: Any) -> Iterator[Tensor]:
    from torch import Tensor  # the listing of methods reads this module without torch

    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (Mapping, list, tuple)):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(part)
