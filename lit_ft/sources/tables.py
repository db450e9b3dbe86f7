"""Rows from a file, a packaged asset, or any source of ``datasets``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from glob import glob
from pathlib import Path
from typing import Any

from lit_ft.core.errors import ConfigError, nearest
from lit_ft.sources.assets import PREFIX, packaged
from lit_ft.sources.places import absence, begins_here, may_be_id, silent_hub
from lit_ft.sources.table_files import Row, absent, kind_of, reader_of, tidied
from lit_ft.sources.table_format import TableFormat, listed, only

AS_IT_IS = TableFormat()


def read_rows(
    path: str,
    required: Sequence[str] = (),
    split: str = "train",
    max_rows: int | None = None,
    plain: bool = False,
    form: TableFormat = AS_IT_IS,
) -> list[Row]:
    r"""All rows of a table, as dicts.

    A null inside of a nested value is as if its key was absent: Parquet knows no difference. The word ``nan`` alone in
    a cell of CSV or TSV is no value, as NaN in JSON and Parquet.

    Args:
        path: A file (``.jsonl``, ``.ndjson``, ``.json``, ``.csv``, ``.tsv``, ``.parquet``; text formats
            also with ``.gz``), ``packaged:NAME``, or what ``datasets.load_dataset`` or ``load_from_disk`` takes: a
            folder or a hub id (``user/name`` or ``user/name:configuration``).
        required: Columns that every row must have, with a value.
        split: The split of a ``datasets`` source.
        max_rows: Most rows, from the first; None reads all.
        plain: Whether the required columns hold texts or numbers, never lists or objects.
        form: How the file is written.

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
        lit_ft.core.errors.ConfigError: path: given 'rows.csv'; ... (did you mean 'label'?); ...
    """
    file = packaged(path) if path.startswith(PREFIX) else Path(path).expanduser()
    reader = _reader(path, file, form)
    found = list(reader(file, form)) if reader else _first_of(_from_datasets(path, split), max_rows)
    rows = [tidied(row, form.encoding) for row in found[:max_rows]]
    if not rows:
        raise ConfigError("path", path, "a source with at least one row")
    for number, row in enumerate(rows, start=1):
        _check_columns(path, number, row, required)
        for column in required if plain else ():
            if isinstance(row[column], (list, dict)):
                allowed = f"a text in {column!r}, not a list or an object; see row {number} of {path}"
                raise ConfigError("path", row[column], allowed)
    return rows


def stream_rows(
    path: str, required: Sequence[str] = (), split: str = "train", form: TableFormat = AS_IT_IS
) -> Iterator[Row]:
    r"""The rows of a table one after another, as they are read; the table is never held in memory as a whole.

    Args:
        path: As for :func:`read_rows`, or a pattern (``shards/*.jsonl``) for files, which are read in the order of
            their names. A ``.json`` file is refused: a list can only be read as a whole.
        required: Columns that every row must have, with a value.
        split: The split of a ``datasets`` source, which is opened with ``streaming=True``.
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


def _streamed(path: str, split: str, form: TableFormat) -> Iterator[Row]:
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
        yield from reader(file, form) if reader else _from_datasets(path, split, streaming=True)


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
            raise ConfigError("path", path, f"rows with a column {column!r}: in row {number} it {state}{hint}")


def _from_datasets(path: str, split: str, streaming: bool = False) -> Any:
    from datasets import DatasetDict, load_dataset, load_from_disk

    folder = Path(path).expanduser()
    hub_id, _, configuration = path.partition(":")
    if not folder.exists() and (not may_be_id(hub_id) or (begins_here(path) and silent_hub())):
        raise ConfigError("path", path, f"a file, a folder or a hub id; {absence(path)}")
    try:
        if (folder / "dataset_info.json").exists() or (folder / "dataset_dict.json").exists():
            found = load_from_disk(str(folder))
            found = found[split] if isinstance(found, DatasetDict) else found
        elif folder.exists():
            found = load_dataset(str(folder), split=split, streaming=streaming)
        else:
            found = load_dataset(hub_id, configuration or None, split=split, streaming=streaming)
    except Exception as error:  # the library raises many kinds, among them those of the network
        reason = str(error).strip().split("\n")[0][:300]
        raise ConfigError("path", path, f"a source that `datasets` can load (split {split!r}): {reason}") from error
    return found


def _first_of(found: Any, max_rows: int | None) -> list[Row]:
    return (found if max_rows is None else found.select(range(min(max_rows, len(found))))).to_list()
