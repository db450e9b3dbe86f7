"""Rows from a file, a packaged asset, or any source of ``datasets``."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import Any

from lit_ft.core.errors import ConfigError, MissingColumn, nearest
from lit_ft.running.saying import say
from lit_ft.sources.assets import PREFIX, packaged
from lit_ft.sources.dataset_source import DatasetPlace, chosen, opened, rows_of
from lit_ft.sources.splits import SPLITS, own_names
from lit_ft.sources.table_files import Row, absent, is_table, kind_of, reader_of, tidied
from lit_ft.sources.table_format import TableFormat, listed, only

AS_IT_IS = TableFormat()


def read_rows(
    path: str,
    required: Sequence[str] = (),
    split: str | None = None,
    max_rows: int | None = None,
    plain: bool | Sequence[str] = False,
    form: TableFormat = AS_IT_IS,
    meant: str = "train",
) -> list[Row]:
    r"""All rows of a table, as dicts.

    A null inside of a nested value is as if its key was absent: Parquet knows no difference. The word ``nan`` alone in
    a cell of CSV or TSV is no value, as NaN in JSON and Parquet.

    Args:
        path: A file (``.jsonl``, ``.ndjson``, ``.json``, ``.csv``, ``.tsv``, ``.parquet``; text formats
            also with ``.gz``), ``packaged:NAME``, or what ``datasets.load_dataset`` or ``load_from_disk`` takes: a
            folder, with ``:split`` behind it or not, or a hub id (``user/name``, ``user/name:configuration``,
            ``user/name:configuration:split``). Class labels of ``datasets`` are read as their names.
        required: Columns that every row must have, with a value.
        split: The split of a ``datasets`` source; None is the one that ``path`` names, else that of ``meant``.
        max_rows: Most rows, from the first; None reads all.
        plain: Whether the required columns hold texts or numbers, never lists or objects; or which of them do.
        form: How the file is written.
        meant: What the rows are for: ``train``, or ``val`` or ``test``, for which a source's only split will do too.

    Raises:
        ConfigError: No such file, no row, a broken line (with its number), a missing column (with the nearest existing
            name), or a list where a text is expected.

    Example:
        >>> _ = Path("rows.csv").write_text("text,label\ngood,1\nbad,0\n")
        >>> read_rows("rows.csv", max_rows=1)
        [{'text': 'good', 'label': '1'}]
        >>> read_rows("rows.csv", required=["lable"])
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.MissingColumn: path: given 'rows.csv'; ... (did you mean 'label'?); ...
    """
    return _read(path, required, split, max_rows, plain, form, (meant,), meant)[0][meant]


def read_splits(
    path: str,
    required: Sequence[str] = (),
    split: str | None = None,
    max_rows: int | None = None,
    plain: bool | Sequence[str] = False,
    form: TableFormat = AS_IT_IS,
    wanted: Collection[str] = SPLITS,
) -> dict[str, list[Row]]:
    """The rows of a table, and those of the splits for validation and test that a ``datasets`` source has of its own.

    Args:
        path: As for :func:`read_rows`, and so are the other arguments.
        required: Columns that every row must have, with a value. A split of its own in which no row has a value in one
            of them is left out, and a line says so.
        split: The split that is read; where it is said, here or in ``path``, no other one is.
        max_rows: Most rows of each.
        plain: Whether the required columns hold texts or numbers, or which of them do.
        form: How the file is written.
        wanted: Which of ``train``, ``val`` and ``test`` are read; those that the source does not have are absent.

    Example:
        >>> from datasets import Dataset, DatasetDict
        >>> rows = Dataset.from_list([{"text": "a"}, {"text": "b"}])
        >>> DatasetDict(train=rows, dev=rows.take(1)).save_to_disk("saved")
        >>> read_splits("saved")
        {'train': [{'text': 'a'}, {'text': 'b'}], 'val': [{'text': 'a'}]}
    """
    if "train" not in wanted and (path.startswith(PREFIX) or is_table(Path(path))):
        return {}
    tables, line = _read(path, required, split, max_rows, plain, form, wanted, "train")
    if line:
        say(line)
    return tables


def _read(
    path: str,
    required: Sequence[str],
    split: str | None,
    max_rows: int | None,
    plain: bool | Sequence[str],
    form: TableFormat,
    wanted: Collection[str],
    meant: str,
) -> tuple[dict[str, list[Row]], str]:
    """The tables, and the line that says which splits of several they are."""
    file = packaged(path) if path.startswith(PREFIX) else Path(path).expanduser()
    reader = _reader(path, file, form)
    if reader is not None:
        if split is not None:
            raise ConfigError("split", split, f"null: {path} is one file, without splits")
        rows = list(reader(file, form))[:max_rows]
        if kind_of(file) not in (".csv", ".tsv"):  # whose cells are texts
            rows = [tidied(row, form.encoding) for row in rows]
        return {meant: _checked(path, rows, required, plain)}, ""
    place = DatasetPlace.of(path, split)
    found = opened(place)
    parts = {meant: chosen(found, place, meant)}
    if place.split is None and len(wanted) > 1:
        parts |= {name: found[theirs] for name, theirs in own_names(found).items() if name not in parts}
    tables = {}
    for name, part in parts.items():
        if name not in wanted:
            continue
        rows = [tidied(row, form.encoding) for row in rows_of(part, max_rows)]
        if name != meant and (lacking := _lacking(rows, required)):
            say(f"{place}: its {name} split is not used, as no row of it has a {lacking!r}")
            continue
        tables[name] = _checked(str(place) if name == "train" else f"{place} ({name})", rows, required, plain)
    return tables, _splits_said(place, found, tables) if place.split is None and len(found) > 1 else ""


def _lacking(rows: Sequence[Row], required: Sequence[str]) -> str | None:
    return next((column for column in required if all(absent(row.get(column)) for row in rows)), None)


def _splits_said(place: DatasetPlace, found: Mapping[str, Any], tables: Mapping[str, Sequence[Row]]) -> str:
    names = own_names(found)
    used = {names[name]: len(rows) for name, rows in tables.items() if name in names}
    said = ", ".join(f"{name} ({n:,} rows)" for name, n in used.items())
    others = [name for name in found if name not in used]
    return f"{place}: read {said}" + (f"; not used: {', '.join(others)}" if others else "")


def _checked(path: str, rows: list[Row], required: Sequence[str], plain: bool | Sequence[str]) -> list[Row]:
    if not rows:
        raise ConfigError("path", path, "a source with at least one row")
    if {type(row.get(column)) for column in required for row in rows} <= {str, int, bool}:
        return rows
    for number, row in enumerate(rows, start=1):
        _check_columns(path, number, row, required)
        for column in required if plain is True else plain or ():
            if isinstance(row[column], (list, dict)):
                allowed = f"a text in {column!r}, not a list or an object; see row {number} of {path}"
                raise ConfigError("path", row[column], allowed)
    return rows


def stream_rows(
    path: str, required: Sequence[str] = (), split: str | None = None, form: TableFormat = AS_IT_IS
) -> Iterator[Row]:
    r"""The rows of a table one after another, as they are read; the table is never held in memory as a whole.

    Args:
        path: As for :func:`read_rows`, or a pattern (``shards/*.jsonl``) for files, which are read in the order of
            their names. A ``.json`` file is refused: a list can only be read as a whole.
        required: Columns that every row must have, with a value.
        split: As for :func:`read_rows`. A source is opened with ``streaming=True``; what ``save_to_disk`` wrote is
            mapped into memory and never read as a whole.
        form: How the files are written.

    Raises:
        ConfigError: As for :func:`read_rows`; a fault in a row is found when that row is reached.

    See also: :func:`read_rows`.

    Example:
        >>> for name in "ab":
        ...     _ = Path(f"{name}.jsonl").write_text(f'{{"text": "{name}1"}}\n{{"text": "{name}2"}}\n')
        >>> [row["text"] for row in stream_rows("*.jsonl")]
        ['a1', 'a2', 'b1', 'b2']
    """
    number = 0
    for number, found in enumerate(_streamed(path, split, form), start=1):
        row = tidied(found, form.encoding)
        _check_columns(path, number, row, required)
        yield row
    if not number:
        raise ConfigError("path", path, "a source with at least one row")


def _streamed(path: str, split: str | None, form: TableFormat) -> Iterator[Row]:
    if path.startswith(PREFIX):
        files = [packaged(path)]
    else:
        name = Path(path).expanduser()
        files = [Path(found) for found in sorted(glob(str(name)))] if not name.exists() else [name]
        files = files or [name]
    for file in files:
        if kind_of(file) == ".json":
            raise ConfigError(
                "path", path, "a file that is read row by row (.jsonl, .csv, .tsv, .parquet), unlike .json"
            )
        reader = _reader(path, file, form)
        if reader is not None and split is not None:
            raise ConfigError("split", split, f"null: {path} is one file, without splits")
        place = None if reader else DatasetPlace.of(path, split)
        yield from reader(file, form) if place is None else rows_of(chosen(opened(place, streaming=True), place))


def _reader(path: str, file: Path, form: TableFormat) -> Any:
    reader = reader_of(path, file)
    if reader is None or path.startswith(PREFIX):
        only(form, (), path)
    return reader


def _check_columns(path: str, number: int, row: Row, required: Sequence[str]) -> None:
    for column in required:
        value = row.get(column)
        if absent(value) or isinstance(value, bytes):
            state, hint = f"is missing; there are {listed(row)}", nearest(column, map(str, row))
            if column not in row and kind_of(Path(path)) in (".csv", ".tsv"):
                hint += "; where the file has no header, columns names them"
            elif column in row:
                state, hint = "is empty" if value is None else f"is {value!r:.40}", ""
                hint = ", which is no text" if isinstance(value, bytes) else hint
            allowed = f"rows with a column {column!r}: in row {number} it {state}{hint}"
            raise MissingColumn(path, column, allowed) if column not in row else ConfigError("path", path, allowed)
