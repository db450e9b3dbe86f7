"""By which layout a row is read: the one that uses most of the columns of its table.

A layout maps the columns of a file to those that a data module knows. Of two that fit, the one that uses more of the
columns wins; a text that renders what the other one reads, in every row, is contained in it. Where neither contains the
other, the row is refused with both named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lit_ft.core.errors import ConfigError, nearest
from lit_ft.running.saying import say
from lit_ft.sources.messages import tools_of
from lit_ft.sources.table_files import Row, absent, kind_of
from lit_ft.sources.table_format import listed

TOOLS = ("tools", "functions", "tool_calls", "function_call")
MEANINGFUL = {
    **dict.fromkeys(("system", "system_prompt", "context", "history", "input"), ""),
    **dict.fromkeys(("image", "images", "video", "videos", "audio", "audios"), ""),
    **dict.fromkeys(TOOLS, "ToolConversations"),
    **dict.fromkeys(("role", "parent_id"), ""),  # of single messages, that a conversation is yet to be made of
}
"""Columns that change what a row means, with the data module that reads them: they are read, or the row is refused."""

Read = Callable[[Row, frozenset[str], int], Row]


@dataclass(frozen=True)
class Layout:
    """What some columns mean.

    Args:
        needs: Columns without which it does not fit.
        read: ``read(row, columns, number)`` gives the row in the columns that a data module knows.
        may: Columns that it also reads where they hold something.
        asks: Columns of the question in their order; in a row, one of them is enough.
        without: Columns with which it does not fit.
        named: Columns that a person named, each with the argument: the table must have them.

    Example:
        >>> layout = Layout(("question", "answer"), read=lambda row, columns, number: row, may=("system", "context"),
        ...                 asks=("question", "context"))
        >>> layout.name(["answer", "context", "id", "question", "system"])
        'system/question/context/answer'
    """

    needs: tuple[str, ...]
    read: Read = field(repr=False, compare=False)
    may: tuple[str, ...] = ()
    asks: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    named: tuple[tuple[str, str], ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether a person has said all columns that are read."""
        return bool(self.named) and self.named[0][0] == "layout"

    def used(self, filled: Iterable[str]) -> frozenset[str]:
        """The columns that it reads of those that hold something."""
        return frozenset(self.needs) | (frozenset(self.may) & frozenset(filled))

    def name(self, filled: Iterable[str]) -> str:
        """The columns that it reads, as a person writes them."""
        order = [*(name for name in self.may if name not in self.asks), *self.asks, *self.needs]
        return "/".join(dict.fromkeys(name for name in order if name in self.used(filled)))

    def accepts(self, row: Row) -> bool:
        """Whether a row has a value in all that it needs, of the question in one column."""
        asks = self.asks or self.needs[:1]
        answers = all(not absent(row.get(name)) for name in self.needs if name not in asks)
        return answers and any(not absent(row.get(name)) for name in asks)


def fitting(layouts: Sequence[Layout], columns: Iterable[str], filled: Iterable[str] = ()) -> list[Layout]:
    """The layouts that fit columns, but for those of which another one uses more of them.

    Args:
        layouts: Those to choose from.
        columns: Columns with a value, which may be an empty text.
        filled: Those that hold something; layouts with an answer there go before others.

    Example:
        >>> layouts = [Layout(needs, read=lambda row, columns, number: row) for needs in (("a",), ("a", "b"), ("c",))]
        >>> [layout.needs for layout in fitting(layouts, "ab")], [layout.needs for layout in fitting(layouts, "ac")]
        ([('a', 'b')], [('a',), ('c',)])
    """
    there, held = frozenset(columns), frozenset(filled)
    fits = [each for each in layouts if there.issuperset(each.needs) and there.isdisjoint(each.without)]
    fits = [each for each in fits if held.issuperset(set(each.needs) - set(each.asks))] or fits
    return [each for each in fits if not any(each.used(there) < other.used(there) for other in fits)]


def holds(value: Any) -> bool:
    """Whether a cell holds something: no null, no blank text, no empty list.

    Example:
        >>> [holds(value) for value in (None, float("nan"), " ", [], "a", 0, False)]
        [False, False, False, False, True, True, True]
    """
    if isinstance(value, (str, list, dict, tuple)):
        return bool(value.strip() if isinstance(value, str) else value)
    return not absent(value)


def columns_with(rows: Iterable[Row], wanted: Callable[[Any], bool]) -> frozenset[str]:
    """The columns with a wanted value in any row.

    Example:
        >>> sorted(columns_with([{"a": 1, "b": ""}, {"a": 2, "c": "x"}], holds))
        ['a', 'c']
    """
    found: set[str] = set()
    for row in rows:
        found.update(name for name, value in row.items() if name not in found and wanted(value))
    return frozenset(found)


def named_layout(name: str, layouts: Sequence[Layout]) -> Layout:
    """The layout that a person names by the columns that it shall read, in any order.

    Example:
        >>> from lit_ft.sources.text_layouts import SUPERVISED
        >>> named_layout("instruction/output", SUPERVISED).may
        ()
        >>> named_layout("instruction/outputs", SUPERVISED)
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: layout: given 'instruction/outputs'; allowed: columns of a layout, divided by /:
            ... (did you mean 'instruction/output'?); other columns are named by themselves, or by a template
    """
    wanted = frozenset(name.split("/"))
    found = [each for each in layouts if wanted.issuperset(each.needs) and wanted <= each.used(wanted)]
    if not found:
        known = ["/".join(each.needs) for each in layouts]
        allowed = f"columns of a layout, divided by /: {listed(known)}{nearest(name, known)}"
        raise ConfigError("layout", name, f"{allowed}; other columns are named by themselves, or by a template")
    chosen = max(found, key=lambda each: len(each.needs))
    used = tuple(each for each in chosen.may if each in wanted)
    asks, named = tuple(each for each in chosen.asks if each in wanted), tuple(("layout", each) for each in wanted)
    return replace(chosen, may=used, asks=asks, without=(), named=named)


class Reading:
    r"""How the rows of one table are read.

    Args:
        path: The table, for messages.
        layouts: Those to choose from.
        rows: Its rows, or the first of them; what is filled in any of them belongs to all.
        chosen: A layout that a person has named, by itself or by its columns; None leaves it to the columns.
        guarded: Columns that are refused where the layout does not read them.
        hint: What else may be done about rows that no layout fits, from one of them.

    Example:
        >>> from lit_ft.sources.text_layouts import SUPERVISED
        >>> rows = [{"instruction": "Add.", "input": "1 1", "output": "2"}]
        >>> reading = Reading("rows.json", SUPERVISED, rows)
        >>> reading.name, [message["content"] for message in reading.row(rows[0], 1)["messages"]]
        ('instruction/input/output', ['Add.\n1 1', '2'])
    """

    def __init__(
        self,
        path: str,
        layouts: Sequence[Layout],
        rows: Sequence[Row],
        chosen: Layout | None = None,
        guarded: Iterable[str] = MEANINGFUL,
        hint: Callable[[Row], str] = lambda row: "",
    ) -> None:
        self.path, self.layouts, self.hint = path, layouts, hint
        self.guarded = frozenset(guarded)
        self.present = columns_with(rows, lambda value: not absent(value))
        self.filled = columns_with(rows, holds)
        if chosen is not None:
            _check_named(chosen, rows, path)
        if chosen is not None and chosen.is_whole:
            self.guarded = frozenset()
        found = fitting(layouts, self.present, self.filled) if chosen is None else [chosen]
        self.rendered: frozenset[str] = frozenset()
        if len(found) > 1:
            whole = [each for each in found if any(renders(each, other, self.filled, rows) for other in found)]
            self.rendered = frozenset(name for each in whole for name in each.needs)
            self.layouts = [each for each in layouts if each not in whole]
            found = [each for each in found if each not in whole]
        self.main = found[0] if len(found) == 1 else None
        self.rows, self.chosen = len(rows), chosen
        self.kinds: dict[frozenset[str], Layout] = {}

    @property
    def name(self) -> str:
        """The columns that are read, divided by a slash."""
        return "several layouts, row by row" if self.main is None else self.main.name(self.filled)

    def row(self, row: Row, number: int) -> Row:
        """A row in the columns that the data module knows."""
        layout = self.main if self.main is not None and self.main.accepts(row) else self._own(row, number)
        columns = layout.used(self.filled)
        refuse_unread(row, columns, self.guarded, number, self.path)
        return {**row, **layout.read(row, columns, number)}

    def _own(self, row: Row, number: int) -> Layout:
        present = frozenset(name for name, value in row.items() if not absent(value))
        if present not in self.kinds:
            if self.chosen is not None:
                raise no_layout(row, number, self.path, f"rows with {', '.join(self.chosen.needs)}")
            found = fitting(self.layouts, present)
            if not found:
                raise no_layout(row, number, self.path, self.hint(row))
            if len(found) > 1:
                raise several_layouts([each.name(present) for each in found], number, self.path)
            self.kinds[present] = found[0]
        return self.kinds[present]


def read_tables(
    tables: Mapping[str, Sequence[Row]],
    numbers: Mapping[str, Sequence[int]],
    paths: Mapping[str, str],
    layouts: Sequence[Layout],
    **how: Any,
) -> dict[str, list[Row]]:
    """The rows of each split in the columns that a data module knows, and a line that says how they were read.

    Args:
        tables: Rows of each split.
        numbers: Their numbers in their tables.
        paths: The table of each split; what is filled in any row of it belongs to all of its rows.
        layouts: Those to choose from.
        **how: As for :class:`Reading`.

    Example:
        >>> from lit_ft.sources.text_layouts import SUPERVISED
        >>> rows = {"train": [{"prompt": "Hi", "response": "Yo"}]}
        >>> read_tables(rows, {"train": [1]}, {"train": "rows.csv"}, SUPERVISED)["train"][0]["completion"]
        'Yo'
    """
    readings = {}
    for path in dict.fromkeys(paths[split] for split in tables):
        rows = [row for split, some in tables.items() if paths[split] == path for row in some]
        readings[path] = Reading(path, layouts, rows, **how)
    read: dict[str, list[Row]] = {}
    for split, some in tables.items():
        order = sorted(range(len(some)), key=numbers[split].__getitem__)  # so that the first row at fault is named
        found = {i: readings[paths[split]].row(some[i], numbers[split][i]) for i in order}
        read[split] = [found[i] for i in range(len(some))]
    for path, reading in readings.items():
        if reading.rows:
            announce(path, reading)
    return read


def renders(text: Layout, other: Layout, filled: Iterable[str], rows: Sequence[Row]) -> bool:
    """Whether one layout is a text that holds, in every row, all that another one reads: it shows the same as a whole.

    Args:
        text: The layout that may be one.
        other: The other one.
        filled: Columns that hold something.
        rows: The rows that have both.

    Example:
        >>> from lit_ft.sources.text_layouts import SUPERVISED
        >>> layouts = fitting(SUPERVISED, ["prompt", "completion", "text"])
        >>> row = {"prompt": "1 + 1", "completion": "2", "text": "Question: 1 + 1 Answer: 2"}
        >>> [layout.needs for layout in layouts if renders(layout, layouts[0], row, [row])]
        [('text',)]
    """
    columns = other.used(filled)
    if text is other or len(text.needs) > 1 or text.may or not rows:
        return False
    for row in rows:
        try:
            parts = _texts_in(row, other, columns) if other.accepts(row) else []
        except ConfigError:
            return False
        whole = row.get(text.needs[0])
        if not isinstance(whole, str) or not parts or not all(part.strip() in whole for part in parts):
            return False
    return True


def _texts_in(row: Row, layout: Layout, columns: frozenset[str]) -> list[str]:
    """What the columns of a row say: texts as they are, and the texts of messages."""
    said = [row[name] for name in columns if holds(row.get(name))]
    if not all(isinstance(value, str) for value in said):
        said += [message.get("content") for message in layout.read(row, columns, 0).get("messages") or ()]
    return [value for value in said if isinstance(value, str)]


def announce(path: str, reading: Reading) -> None:
    """Say in a line how a table is read, and which of its columns are not.

    Example:
        >>> from lit_ft.sources.text_layouts import SUPERVISED
        >>> announce("rows.csv", Reading("rows.csv", SUPERVISED, [{"prompt": "Hi", "response": "Yo"}]))
    """
    rest = frozenset() if reading.main is None else reading.filled - reading.main.used(reading.filled)
    unread = [f"{name} (it renders the same)" if name in reading.rendered else name for name in sorted(rest)]
    said = f"; not read: {listed(unread)}" if unread else ""
    say(f"{path}: read as {reading.name}; --data.layout names another{said}")


def _check_named(layout: Layout, rows: Sequence[Row], path: str) -> None:
    known = list(dict.fromkeys(str(name) for row in rows for name in row))
    for argument, name in layout.named:
        if name not in known:
            raise ConfigError(argument, name, f"a column of {path}: {listed(known)}{nearest(name, known)}")


def no_layout(row: Row, number: int, path: str, allowed: str) -> ConfigError:
    """The error for a row that no layout fits.

    Example:
        >>> print(no_layout({"a": 1, "b": None}, 3, "rows.csv", "rows with text"))
        path: given 'rows.csv (row 3 has a, b (empty))'; allowed: rows with text; where the file has no header, columns
        names them
    """
    known = listed(f"{name}{' (empty)' * absent(row[name])}" for name in row) or "no column"
    if kind_of(Path(path)) in (".csv", ".tsv"):
        allowed += "; where the file has no header, columns names them"
    return ConfigError("path", f"{path} (row {number} has {known})", allowed)


def several_layouts(names: Sequence[str], number: int, path: str) -> ConfigError:
    """The error for a row that several layouts fit.

    Example:
        >>> print(several_layouts(["messages", "text"], 3, "rows.csv"))
        layout: given None; allowed: messages or text: both fit row 3 of rows.csv, and neither reads what the other does
    """
    fit = "both fit" if len(names) == 2 else "all fit"
    allowed = f"{' or '.join(names)}: {fit} row {number} of {path}, and neither reads what the other does"
    return ConfigError("layout", None, allowed)


def refuse_unread(row: Row, columns: frozenset[str], guarded: frozenset[str], number: int, path: str) -> None:
    """Refuse a row with a column that changes what it means, and that its layout does not read.

    Example:
        >>> refuse_unread({"text": "a", "image": "a.png"}, frozenset(["text"]), frozenset(MEANINGFUL), 3, "rows.csv")
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: path: given 'rows.csv (row 3 has image)'; allowed: rows whose meaning is read:
            'image' is not, as text is read alone; --data.layout text reads them without it
    """
    for name in sorted(guarded.intersection(row) - columns):
        if _changes(name, row[name], number):
            used = "/".join(sorted(columns))
            module = f", which {MEANINGFUL[name]} reads" if MEANINGFUL[name] else ""
            allowed = f"rows whose meaning is read: {name!r} is not{module}, as {used} is read alone"
            raise ConfigError(
                "path", f"{path} (row {number} has {name})", f"{allowed}; --data.layout {used} reads them without it"
            )


def _changes(name: str, value: Any, number: int) -> bool:
    if name in ("tools", "functions"):
        return holds(value) and bool(tools_of(value, number))
    return holds(value)
