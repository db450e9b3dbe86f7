"""Columns that say of a row whether it is wanted."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from lit_ft.core.errors import ConfigError

_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
VERDICTS = (
    "label", "kto_tag", "desirable", "accepted", "is_accepted", "correct", "is_correct", "preferred", "thumbs_up",
    "is_duplicate", "duplicate", "is_positive", "is_match", "match", "relevant", "is_relevant", "relevance",
)  # fmt: skip


def truth(value: Any) -> bool | None:
    """What a cell says: true, yes and 1, or false, no and 0, as words or numbers; None for everything else.

    Example:
        >>> truth("True"), truth(0.0), truth("spam")
        (True, False, None)
    """
    return _WORDS.get(str(value).strip().lower().removesuffix(".0"))


def only_true(
    rows: Sequence[Mapping[str, Any]], numbers: Sequence[int], column: str, split: str
) -> tuple[list[Any], list[int]]:
    """The rows in which a column is true, with their numbers; how many they are is told.

    Args:
        rows: Rows of a split.
        numbers: Their numbers in their table.
        column: The column.
        split: Name of the split, for messages.

    Example:
        >>> only_true([{"text": "a", "label": 1}, {"text": "b", "label": 0}], [1, 2], "label", "train")
        ([{'text': 'a', 'label': 1}], [1])
    """
    kept = [(row, number) for row, number in zip(rows, numbers, strict=True) if _says(row, column, number)]
    if not kept and rows:
        raise ConfigError("only", column, f"a column that is true in some of the {len(rows)} {split} rows")
    if rows:
        rank_zero_info(f"{len(kept)} of {len(rows)} {split} rows are used: those in which {column} is true")
    return [row for row, _ in kept], [number for _, number in kept]


def true_ones(rows: Iterable[Mapping[str, Any]], column: str) -> Iterator[Any]:
    """The rows of a stream in which a column is true.

    Example:
        >>> list(true_ones(iter([{"good": 0}, {"good": "yes"}]), "good"))
        [{'good': 'yes'}]
    """
    return (row for number, row in enumerate(rows, start=1) if _says(row, column, number))


def _says(row: Mapping[str, Any], column: str, number: int) -> bool:
    said = truth(row.get(column))
    if said is None:
        raise ConfigError("only", f"{column} = {row.get(column)!r} in row {number}", "true or false, 1 or 0")
    return said


def check_verdicts(rows: Sequence[Mapping[str, Any]], numbers: Sequence[int], read: Collection[str], path: str) -> None:
    """Refuse rows that a column calls unwanted when nothing reads that column: they would be learned like the others.

    Args:
        rows: Rows of a table.
        numbers: Their numbers.
        read: Columns that are read.
        path: The table, for the message.

    Example:
        >>> check_verdicts([{"prompt": "Hi", "label": False}], [7], {"prompt"}, "rows.jsonl")
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: path: given 'rows.jsonl (row 7 has label = False)'; allowed: rows that are ...
    """
    for column in VERDICTS:
        if column in read or not any(column in row for row in rows):
            continue
        said = [truth(row.get(column)) for row in rows]
        others = any(one is None and row.get(column) is not None for one, row in zip(said, rows, strict=True))
        if False in said and not others:
            place = said.index(False)
            given = f"{path} (row {numbers[place]} has {column} = {rows[place][column]!r})"
            allowed = f"rows that are all to be learned; `only: {column}` takes those in which it is true"
            allowed += ", UnpairedPreferences learns from both" if column in ("label", "kto_tag") else ""
            raise ConfigError("path", given, allowed)
