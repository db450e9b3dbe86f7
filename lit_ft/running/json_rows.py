"""Rows of numbers and texts as lines of JSON that every reader accepts."""

import json
import math
from collections.abc import Iterable
from typing import Any

import torch


def json_rows(batches: Iterable[Any]) -> str:
    """One line for each row of every batch: tensors as lists, infinite numbers and NaN as ``null``.

    Python would write ``Infinity`` and ``NaN``, which are not JSON: jq, pandas and browsers refuse the whole file.

    Args:
        batches: Each a tensor, or rows of numbers, texts, lists and mappings.

    Example:
        >>> print(json_rows([torch.tensor([[0.5, float("nan")]]), [{"text": "é", "scores": (1, 2)}]]), end="")
        [0.5, null]
        {"text": "é", "scores": [1, 2]}
    """
    rows = (row for batch in batches for row in _plain(batch))
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return _plain(value.tolist())
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
