"""Rows of numbers and texts as lines of JSON that every reader takes."""

import json
import math
from collections.abc import Iterable
from typing import Any

import torch


def json_rows(batches: Iterable[Any]) -> str:
    """One line a row of every batch: tensors as lists, numbers that are infinite or none (NaN) as ``null``.

    Python would write ``Infinity`` and ``NaN``, which are no JSON: jq, pandas and browsers refuse the whole file.

    Args:
        batches: Each a tensor, or rows of numbers, texts, lists and mappings.
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
