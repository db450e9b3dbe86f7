"""What the rows of a batch are: their classes, their sides, their place in the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

_CLASSES = 20


def row_names(batch: Mapping[str, Tensor], data: Any = None) -> list[tuple[int, str]]:
    """Position and name of each row, in the order in which a person compares them.

    Pairs of answers stand one below the other, the preferred one first; single answers say whether they are wanted;
    texts to be embedded are anchors, positives and negatives; labels have the names of their classes.

    Args:
        batch: A batch of texts.
        data: The data module, for the names of classes and the numbers of rows in their table.

    Example:
        >>> batch = {"input_ids": torch.zeros(4, 3), "pair_weights": torch.ones(2)}
        >>> row_names(batch)
        [(0, 'row 0, chosen'), (2, 'row 0, rejected'), (1, 'row 1, chosen'), (3, 'row 1, rejected')]
    """
    size = len(batch["input_ids"])
    sides = _sides(batch, size)
    rows = size // len(sides)
    names = []
    for row in range(rows):
        about = f"row {row}{_place(batch, data, row)}{_label(batch, data, row)}"
        for number, side in enumerate(sides):
            names.append((number * rows + row, about + (f", {side}" if side else "")))
    if "desirable" in batch:
        wanted = ["wanted" if is_wanted else "unwanted" for is_wanted in batch["desirable"].tolist()]
        names = [(i, f"{name}, {wanted[i]}" if i < rows else name) for i, name in names]
    return names


def class_line(data: Any) -> list[str]:
    """One line that names the classes of a data module, in the order of their numbers; none if it has none.

    Example:
        >>> from types import SimpleNamespace
        >>> class_line(SimpleNamespace(class_names=["ham", "spam"]))
        ['classes: 0 ham, 1 spam']
    """
    names = getattr(data, "class_names", None) or ()
    if not names:
        return []
    more = f", ... ({len(names)})" if len(names) > _CLASSES else ""
    return ["classes: " + ", ".join(f"{number} {name}" for number, name in enumerate(names[:_CLASSES])) + more]


def label_name(label: float | Sequence[float], data: Any) -> str:
    """A label as its class or classes, or as its number.

    Example:
        >>> from types import SimpleNamespace
        >>> label_name([1.0, 0.0, 1.0], SimpleNamespace(class_names=["big", "old", "red"]))
        'big + red'
    """
    names: Sequence[str] = getattr(data, "class_names", None) or ()
    if isinstance(label, Sequence):
        if len(names) != len(label):
            return str(label)
        return " + ".join(name for name, mark in zip(names, label, strict=True) if mark) or "none"
    return f"{names[int(label)]}" if float(label).is_integer() and 0 <= label < len(names) else f"{label:g}"


def _sides(batch: Mapping[str, Tensor], size: int) -> list[str]:
    if "pair_weights" in batch:
        return ["chosen", "rejected"]
    if "desirable" in batch:
        return ["", "with the answer of another row"] if size == 2 * len(batch["desirable"]) else [""]
    keys = batch.get("keys")
    if keys is not None and keys.dim() == 2 and keys.numel() == size:
        return ["anchor", "positive", *(f"negative {n}" for n in range(1, keys.shape[1] - 1))]
    return [""]


def _label(batch: Mapping[str, Tensor], data: Any, row: int) -> str:
    labels = batch.get("labels")
    if labels is None or labels.dim() not in (1, 2) or row >= len(labels):
        return ""
    return f", label {label_name(labels[row].tolist(), data)}"


def _place(batch: Mapping[str, Tensor], data: Any, row: int) -> str:
    """The number of a row in its table, where the data module knows it."""
    numbers, rows = (getattr(data, "numbers", None) or {}).get("train"), batch.get("rows")
    if not numbers or rows is None or rows.dim() != 1 or rows[row] >= len(numbers):
        return ""
    return f" ({numbers[int(rows[row])]} of the table)"
