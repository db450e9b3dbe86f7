"""Kinds of batches: a method and a data module fit together when both name the same ``TypedDict`` as ``batch``."""

import re
from typing import is_typeddict


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
