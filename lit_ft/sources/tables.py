"""Rows from a file, a packaged asset, or any source of ``datasets``."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from glob import glob
from pathlib import Path
from typing import Any, TextIO

from lit_ft.core.errors import ConfigError, nearest
from lit_ft.sources.assets import PREFIX, packaged
from lit_ft.sources.places import absence, begins_here, may_be_id, silent_hub

Row = dict[str, Any]

_ROWS_AT_ONCE = 256  # of Parquet, whose columns are decoded in pieces


def read_rows(
    path: str, required: Sequence[str] = (), split: str = "train", max_rows: int | None = None, plain: bool = False
) -> list[Row]:
    r"""All rows of a table, as dicts.

    Args:
        path: A file (``.jsonl``, ``.ndjson``, ``.json``, ``.csv``, ``.tsv``, ``.parquet``; text formats
            also with ``.gz``), ``packaged:NAME``, or what ``datasets.load_dataset`` or ``load_from_disk`` takes: a
            folder or a hub id (``user/name`` or ``user/name:configuration``).
        required: Columns that every row must have, with a value.
        split: The split of a ``datasets`` source.
        max_rows: Most rows, from the first; None reads all.
        plain: Whether the required columns hold texts or numbers, never lists or objects.

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
        lit_ft.core.errors.ConfigError: path: given 'rows.csv'; ... (did you mean 'label'?)
    """
    file = packaged(path) if path.startswith(PREFIX) else Path(path).expanduser()
    reader = _reader(path, file)
    rows = (list(reader(file)) if reader else _first_of(_from_datasets(path, split), max_rows))[:max_rows]
    if not rows:
        raise ConfigError("path", path, "a source with at least one row")
    for number, row in enumerate(rows, start=1):
        _check_columns(path, number, row, required)
        for column in required if plain else ():
            if isinstance(row[column], (list, dict)):
                allowed = f"a text in {column!r}, not a list or an object; see row {number} of {path}"
                raise ConfigError("path", row[column], allowed)
    return rows


def stream_rows(path: str, required: Sequence[str] = (), split: str = "train") -> Iterator[Row]:
    r"""The rows of a table one after another, as they are read; the table is never held in memory as a whole.

    Args:
        path: As for :func:`read_rows`, or a pattern (``shards/*.jsonl``) for files, which are read in the order of
            their names. A ``.json`` file is refused: a list can only be read as a whole.
        required: Columns that every row must have, with a value.
        split: The split of a ``datasets`` source, which is opened with ``streaming=True``.

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
    for number, row in enumerate(_streamed(path, split), start=1):
        _check_columns(path, number, row, required)
        yield row
    if not number:
        raise ConfigError("path", path, "a source with at least one row")


def _streamed(path: str, split: str) -> Iterator[Row]:
    if path.startswith(PREFIX):
        files = [packaged(path)]
    else:
        name = Path(path).expanduser()
        files = [Path(found) for found in sorted(glob(str(name)))] if not name.exists() else [name]
        files = files or [name]
    for file in files:
        if _kind(file) == ".json":
            raise ConfigError(
                "path", path, "a file that is read row by row (.jsonl, .csv, .tsv, .parquet), unlike .json"
            )
        reader = _reader(path, file)
        yield from reader(file) if reader else _from_datasets(path, split, streaming=True)


def _kind(file: Path) -> str:
    """The ending that decides how a file is read; for ``.gz`` the ending before it."""
    name = file.name.lower()
    return Path(name.removesuffix(".gz")).suffix if name.endswith(".gz") else file.suffix.lower()


def _reader(path: str, file: Path) -> Any:
    """The function that reads a file; None for a source of ``datasets``."""
    reader = _READERS.get(_kind(file))
    if file.is_file() and (reader is None or (reader is _parquet and file.suffix.lower() == ".gz")):
        raise ConfigError("path", path, f"a file that ends in {', '.join(_READERS)}; or in .gz behind one of text")
    if reader and not file.is_file():
        raise ConfigError("path", path, f"a file that exists; nothing is at {file.absolute()}")
    return reader


@contextmanager
def _text(file: Path, newline: str | None = None) -> Iterator[TextIO]:
    """An open text file, decompressed if necessary."""
    opened: Any = gzip.open if file.suffix.lower() == ".gz" else open
    try:
        with opened(file, "rt", encoding="utf-8-sig", newline=newline) as lines:
            yield lines
    except (EOFError, gzip.BadGzipFile) as error:
        raise ConfigError("path", str(file), f"a whole file, compressed by gzip: {error}") from error
    except UnicodeDecodeError as error:
        with opened(file, "rb") as content:
            number = next((n for n, line in enumerate(content, start=1) if not _decodes(line)), 1)
        allowed = f"text in UTF-8: line {number} has {error.reason} (files of Excel and Windows are saved otherwise)"
        raise ConfigError("path", str(file), allowed) from error


def _decodes(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _check_columns(path: str, number: int, row: Row, required: Sequence[str]) -> None:
    for column in required:
        if row.get(column) is None:
            state = "is empty" if column in row else f"is missing; there are {', '.join(map(str, row))}"
            hint = "" if column in row else nearest(column, map(str, row))
            raise ConfigError("path", path, f"rows with a column {column!r}: in row {number} it {state}{hint}")


def _json_lines(file: Path) -> Iterator[Row]:
    with _text(file) as lines:
        # a file ends lines at \n, \r\n and \r alone: strings may hold U+2028, at which splitlines() splits
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ConfigError("path", str(file), f"JSON in every line: line {number} has {error.msg}") from error
            if not isinstance(row, dict):
                allowed = f"an object in every line: line {number} is a {type(row).__name__}"
                raise ConfigError("path", str(file), allowed)
            text = json.dumps(row, ensure_ascii=False) if "\\ud" in line.lower() else ""
            if not _decodes(text.encode("utf-8", "surrogatepass")):
                allowed = f"whole characters: line {number} has half of one (\\ud800 to \\udfff alone)"
                raise ConfigError("path", str(file), allowed)
            yield row


def _json(file: Path) -> Iterable[Row]:
    try:
        with _text(file) as content:
            rows = json.loads(content.read())
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            return _json_lines(file)  # JSONL under another name
        raise ConfigError("path", str(file), f"valid JSON: line {error.lineno} has {error.msg}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        keys = f", unlike an object with {', '.join(map(str, rows))}" if isinstance(rows, dict) else ""
        raise ConfigError("path", str(file), f"a list of objects{keys}")
    return rows


def _csv(file: Path) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)
    with _text(file, newline="") as lines:
        reader = csv.DictReader(lines, delimiter="\t" if _kind(file) == ".tsv" else ",")
        for row in reader:
            if None in row or None in row.values():
                columns = len(reader.fieldnames or [])
                raise ConfigError("path", str(file), f"{columns} cells in every row: line {reader.line_num} has not")
            yield dict(row)


def _parquet(file: Path) -> Iterator[Row]:
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            for rows in table.iter_batches(batch_size=_ROWS_AT_ONCE):
                yield from rows.to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise ConfigError("path", str(file), f"a Parquet file: {error}") from error


_READERS = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
}


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
