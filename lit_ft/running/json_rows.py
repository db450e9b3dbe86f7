"""Rows of numbers and texts as lines of JSON that every reader accepts."""

import json
import math
from typing import Any

import torch


def json_line(row: Any) -> str:
    """A row as one line of JSON: tensors as lists, infinite numbers and NaN as ``null``.

    Python would write ``Infinity`` and ``NaN``, which are not JSON: jq, pandas and browsers refuse the whole file.

    Args:
        row: A tensor, number, text, list or mapping, nested in any way.

    Example:
        >>> print(json_line({"text": "é", "scores": torch.tensor([0.5, float("nan")])}), end="")
        {"text": "é", "scores": [0.5, null]}
    """
    return json.dumps(plain(row), ensure_ascii=False, allow_nan=False) + "\n"


def plain(value: Any) -> Any:
    """A value as JSON holds it.

    Example:
        >>> plain({1: (torch.tensor(2), float("inf"))})
        {1: [2, None]}
    """
    if isinstance(value, torch.Tensor):
        return plain(value.tolist())
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
