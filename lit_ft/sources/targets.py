"""From the cells of a column to what is predicted: one class of several, any number of classes, or a number."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lit_ft.core.errors import ConfigError, nearest
from lit_ft.core.problems import CLASS, CLASSES, NUMBER, ProblemType
from lit_ft.sources.class_names import class_name, class_names, labelled
from lit_ft.sources.label_tensors import class_counts
from lit_ft.sources.table_files import absent
from lit_ft.sources.tables import Row


@dataclass(frozen=True)
class Targets:
    """What is predicted of the rows of each split.

    Args:
        problem_type: What a label is.
        names: Names of the classes by number; none of numbers.
        values: Of each row of each split: the number of its class, marks of its classes (a tensor of shape (classes,)),
            or its number.

    Example:
        >>> rows = [{"tags": "red; big"}, {"tags": ""}, {"tags": "big"}]
        >>> found = targets({"train": rows}, {"train": [1, 2, 3]}, "tags", separator=";")
        >>> found.problem_type, found.names, torch.stack(found.values["train"]).float()
        ('multi_label_classification', ['big', 'red'], tensor([[1., 1.],
                [0., 0.],
                [1., 0.]]))
        >>> found.counts("train")
        [2, 1]
    """

    problem_type: ProblemType
    names: list[str]
    values: Mapping[str, Sequence[Any]]

    def counts(self, split: str) -> list[int]:
        """Rows of each class in a split; none of numbers."""
        return class_counts(self.values[split], len(self.names))


def targets(
    tables: Mapping[str, Sequence[Row]],
    numbers: Mapping[str, Sequence[int]],
    column: str,
    problem_type: ProblemType | None = None,
    separator: str | None = None,
    argument: str = "label",
    places: Mapping[str, str] | None = None,
) -> Targets:
    """Read a column of labels.

    Args:
        tables: Rows of each split.
        numbers: Numbers of these rows in their table, for errors.
        column: Column of the label.
        problem_type: What a label is; None is any number of classes where all cells are lists or a separator is given,
            else one class.
        separator: What stands between the classes of a cell.
        argument: The argument that named the column, for errors.
        places: The table of each split, for errors.

    Raises:
        ConfigError: A row has no label, or not one of this kind.

    Example:
        >>> targets({"": [{"price": "2.50"}, {"price": 3}]}, {"": [1, 2]}, "price", "regression").values
        {'': [2.5, 3.0]}
    """
    if separator is not None and (not separator or problem_type in (CLASS, NUMBER)):
        raise ConfigError("separator", separator, f"a text between classes, of the problem type {CLASSES}")
    if not any(column in row for rows in tables.values() for row in rows):
        known = next((list(rows[0]) for rows in tables.values() if rows), [])
        raise ConfigError(argument, column, f"a column: {', '.join(map(str, known))}{nearest(column, map(str, known))}")
    cells = _Cells({split: [row.get(column) for row in rows] for split, rows in tables.items()}, numbers, places or {})
    if problem_type == NUMBER:
        return Targets(NUMBER, [], cells.each(lambda cell, where: _number(cell, where, argument)))
    kinds = {type(cell) for *_, cell in cells}
    lists = (
        [(split, row) for split, row, cell in cells if isinstance(cell, (list, tuple))] if kinds & {list, tuple} else []
    )
    if problem_type is None and separator is None:
        several = lists and len(lists) == sum(cell is not None for *_, cell in cells)
        problem_type = CLASSES if several else CLASS
    if problem_type == CLASS:
        if lists:
            split, row = lists[0]
            allowed = f"a text in {column!r}, not a list or an object; {cells.where(split, row)}"
            raise ConfigError(argument, cells.values[split][row], allowed)
        names, classes = labelled(tables, numbers, column, argument)
        return Targets(CLASS, names, dict(classes))
    sets = cells.each(lambda cell, where: _set(cell, separator, where, argument))
    names = class_names(name for own in sets.values() for one in own for name in one)
    if len(names) < 2:
        raise ConfigError(argument, column, f"a column with at least two different classes; all are {names}")
    return Targets(CLASSES, names, {split: _marks(own, names) for split, own in sets.items()})


@dataclass(frozen=True)
class _Cells:
    """The cells of a column of each split, and where they stand."""

    values: dict[str, list[Any]]
    numbers: Mapping[str, Sequence[int]]
    places: Mapping[str, str]

    def __iter__(self) -> Iterator[tuple[str, int, Any]]:
        return ((split, row, cell) for split, own in self.values.items() for row, cell in enumerate(own))

    def where(self, split: str, row: int) -> str:
        of = f" of {self.places[split]}" if split in self.places else ""
        return f"see row {self.numbers[split][row]}{of}"

    def each(self, read: Callable[[Any, Callable[[], str]], Any]) -> dict[str, list[Any]]:
        return {
            split: [read(cell, partial(self.where, split, row)) for row, cell in enumerate(own)]
            for split, own in self.values.items()
        }


def _number(cell: Any, where: Callable[[], str], argument: str) -> float:
    try:
        unlike = cell is None or isinstance(cell, (bool, list, dict, bytes))
        value = math.nan if unlike else float(cell)
    except (ValueError, TypeError):
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(argument, cell, f"a finite number, with a point, in every row; {where()}")
    return value


def _set(cell: Any, separator: str | None, where: Callable[[], str], argument: str) -> list[str]:
    if absent(cell):
        return []
    if isinstance(cell, (list, tuple)):
        if separator is not None:
            raise ConfigError("separator", separator, f"null where the cells are lists already; {where()}")
        parts = list(cell)
    elif separator is None:
        raise ConfigError(argument, cell, f"lists, or texts with a separator between classes (';'); {where()}")
    else:
        parts = [part.strip() for part in str(cell).split(separator)]
    return [name for part in parts if (name := class_name(part))]


def _marks(sets: Sequence[Sequence[str]], names: Sequence[str]) -> list[Tensor]:
    places = {name: place for place, name in enumerate(names)}
    marks = torch.zeros(len(sets), len(names), dtype=torch.bool)
    for row, one in enumerate(sets):
        marks[row, [places[name] for name in one]] = True
    return list(marks)
