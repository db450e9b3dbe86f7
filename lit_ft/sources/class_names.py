"""From the cells of a column to classes: one name for each class, in an order that no process and no file changes."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lit_ft.core.errors import ConfigError
from lit_ft.sources.tables import Row

_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?")  # 007 is a text: who writes zeros in front means them


def class_name(cell: Any) -> str:
    """The name of the class that a cell says, the same whatever the type of the file; empty where it says none.

    A number is written in its shortest form, also one that a table without types holds as text. Every other text stays
    as it is.

    Args:
        cell: A text, a number, true or false, or a date; None and NaN say nothing.

    Raises:
        ConfigError: The cell is a list, an object or bytes.

    See also: :func:`class_names`, :func:`labelled`.

    Example:
        >>> [class_name(cell) for cell in (0, 0.0, "0", "0.0", "0.50", "007", True, " spam", None)]
        ['0', '0', '0', '0', '0.5', '007', 'True', ' spam', '']
    """
    if cell is None or (isinstance(cell, (float, Decimal)) and math.isnan(cell)):
        return ""
    if isinstance(cell, (list, tuple, dict, set, bytes)):
        raise ConfigError("label", cell, "a text or a number")
    text = format(cell, "f") if isinstance(cell, Decimal) else str(cell)
    if not _NUMBER.fullmatch(text):
        return text if text.strip() else ""
    shortest = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if shortest == "-0" else shortest


def class_names(names: Iterable[str]) -> list[str]:
    """Every name once: numbers by size, then texts.

    Example:
        >>> class_names(["10", "b", "9", "-1.5", "007", "9", "B"])
        ['-1.5', '9', '10', '007', 'B', 'b']
    """
    return sorted(set(names), key=_place)


def labelled(
    tables: Mapping[str, Sequence[Row]], numbers: Mapping[str, Sequence[int]], column: str, argument: str = "label"
) -> tuple[list[str], dict[str, list[int]]]:
    """The names of the classes of all splits together, and the number of the class of each row of each split.

    Warns, with counts, of names that a person may have meant to be one: they differ in white space, in upper and lower
    case, or in how a number is written.

    Args:
        tables: Rows of each split.
        numbers: Numbers of these rows in their table, for errors.
        column: Column of the label.
        argument: The argument that named the column, for errors.

    Raises:
        ConfigError: A row has no label.

    Example:
        >>> tables = {"train": [{"kind": 8}, {"kind": "8.0"}, {"kind": "x"}], "val": [{"kind": 7}]}
        >>> labelled(tables, {"train": [1, 2, 3], "val": [4]}, "kind")
        (['7', '8', 'x'], {'train': [1, 1, 2], 'val': [0]})
    """
    known = lru_cache(maxsize=2**16)(class_name)  # a text is asked for once, and not once a row
    found = {
        split: [known(cell) if type(cell := row[column]) is str else class_name(cell) for row in rows]
        for split, rows in tables.items()
    }
    if any(isinstance(row[column], bool) for rows in tables.values() for row in rows):
        found = {split: [_truth(name) for name in names] for split, names in found.items()}  # JSON beside a CSV
    for split, names in found.items():
        empty = [number for number, name in zip(numbers[split], names, strict=False) if not name]
        if empty:
            some = ", ".join(map(str, empty[:5])) + (" ..." if len(empty) > 5 else "")
            allowed = f"a column with a class in every row: {len(empty)} of {len(names)} {split} rows have none: {some}"
            raise ConfigError(argument, column, allowed)
    _warn_of_look_alikes(Counter(name for names in found.values() for name in names), column)
    classes = class_names(name for names in found.values() for name in names)
    places = {name: number for number, name in enumerate(classes)}
    return classes, {split: [places[name] for name in names] for split, names in found.items()}


def _place(name: str) -> tuple[int, Decimal, str]:
    return (0, Decimal(name), "") if _NUMBER.fullmatch(name) else (1, Decimal(0), name)


def _truth(name: str) -> str:
    return {"true": "True", "false": "False"}.get(name.lower(), name)


def _warn_of_look_alikes(rows: Counter[str], column: str) -> None:
    alike: dict[str, list[str]] = {}
    for name in class_names(rows):
        alike.setdefault(_seen_from_afar(name), []).append(name)
    for names in alike.values():
        first, *others = sorted(names, key=lambda name: (-rows[name], names.index(name)))
        for name in others:
            rank_zero_warn(
                f"{rows[name]} of {rows.total()} rows have {column} = {name!r}, a class of its own beside {first!r}"
                f" ({rows[first]} rows)"
            )


def _seen_from_afar(name: str) -> str:
    text = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
    try:
        number = Decimal(text)
    except InvalidOperation:
        return text
    return str(float(number)) if number.is_finite() else text
