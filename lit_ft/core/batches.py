"""What is in a batch: a ``TypedDict`` that a method and the data modules it can read both name as ``batch``."""

import re
from typing import is_typeddict


def kind_of(owner: object) -> str:
    """The kind of batch that a method reads or a data module gives; empty where its class names none.

    Args:
        owner: A method or a data module; its class attribute ``batch`` is a ``TypedDict``.
    """
    batch = getattr(owner, "batch", None)
    return kind_name(batch.__name__) if is_typeddict(batch) else ""  # type: ignore[union-attr]


def kind_name(name: str) -> str:
    """The kind by the name of its ``TypedDict``: ``scored_text`` is ``ScoredTextBatch``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name.removesuffix("Batch")).lower()
