"""The rows of one file: JSON, tables of cells, Parquet."""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lit_ft.core.errors import ConfigError
from lit_ft.sources.dataset_source import class_columns, named_rows
from lit_ft.sources.json_files import json_lines, json_rows
from lit_ft.sources.table_format import MARKS, TableFormat, listed, only, repeated

Row = dict[str, Any]
Reader = Callable[[Path, TableFormat], Iterable[Row]]

OTHERS = {
    b"PAR1": "a Parquet file",
    b"PK\x03\x04": "a zip archive, as those of Excel are",
    b"\xd0\xcf\x11\xe0": "a file of Excel",
    b"\x1f\x8b": "compressed by gzip, which a name in .gz says",
    b"ARROW1": "an Arrow file",
    b"version https://git-lfs": "a pointer of Git LFS: the file itself was not fetched",
}
"""How files of other kinds begin that may come under the name of one of text."""
_NAN = frozenset(("nan", "NaN"))  # as pandas and others write a missing value into a cell
_ROWS_AT_ONCE = 256  # of Parquet, whose columns are decoded in pieces


def kind_of(file: Path) -> str:
    """The ending that decides how a file is read; for ``.gz`` the ending before it.

    Example:
        >>> kind_of(Path("rows.TSV.gz"))
        '.tsv'
    """
    name = file.name.lower()
    return Path(name.removesuffix(".gz")).suffix if name.endswith(".gz") else file.suffix.lower()


def reader_of(path: str, file: Path) -> Reader | None:
    """The function that reads a file; None for a source of ``datasets``.

    Example:
        >>> reader_of("rows.jsonl", Path("rows.jsonl"))
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: path: given 'rows.jsonl'; allowed: a file that exists; nothing is at ...
    """
    reader = _READERS.get(kind_of(file))
    if file.is_file() and (reader is None or (reader is _parquet and file.suffix.lower() == ".gz")):
        raise ConfigError("path", path, f"a file that ends in {', '.join(_READERS)}; or in .gz behind one of text")
    if reader and not file.is_file():
        raise ConfigError("path", path, f"a file that exists; nothing is at {file.absolute()}")
    return reader


def is_table(file: Path) -> bool:
    """Whether a name is that of a file with rows, or a pattern for several.

    Example:
        >>> is_table(Path("part-*.jsonl.gz")), is_table(Path("saved"))
        (True, False)
    """
    return kind_of(file) in _READERS


def absent(value: Any) -> bool:
    """Whether a cell has no value: null, or the number that is none.

    Example:
        >>> absent(None), absent(math.nan), absent(""), absent("nan")
        (True, True, False, False)
    """
    return value is None or (isinstance(value, float) and math.isnan(value))


def row_id(row: Row) -> Row:
    """What a row is called, in a mapping; an empty one where its table has no column ``id``.

    Example:
        >>> row_id({"ID": "a7", "text": "x"}), row_id({"text": "x"})
        ({'id': 'a7'}, {})
    """
    name = next((name for name in row if name.lower() == "id"), None)
    return {} if name is None or absent(row[name]) else {"id": row[name]}


def row_ids(rows: Sequence[Row], numbers: Sequence[int]) -> dict[int, Row]:
    """What those rows are called that have a name, by their numbers.

    Example:
        >>> row_ids([{"id": "a7"}, {"text": "x"}], numbers=[4, 9])
        {4: {'id': 'a7'}}
    """
    return {number: named for row, number in zip(rows, numbers, strict=False) if (named := row_id(row))}


def tidied(row: Row, encoding: str | None = None) -> Row:
    r"""A row as it was written: Arrow fills the absent keys of nested values with null, and keeps some texts as bytes.

    A key without a value inside of a message, a call or a tool is absent, whatever the file; bytes become text where
    they are text.

    Example:
        >>> tidied({"text": b"caf\xc3\xa9", "call": {"name": "look", "arguments": {"city": "Paris", "ticker": None}}})
        {'text': 'café', 'call': {'name': 'look', 'arguments': {'city': 'Paris'}}}
    """
    if not any(isinstance(value, (dict, list, bytes)) for value in row.values()):
        return row
    return {name: _tidied(value, encoding or "utf-8") for name, value in row.items()}


def _tidied(value: Any, encoding: str) -> Any:
    if isinstance(value, dict):
        return {name: _tidied(part, encoding) for name, part in value.items() if part is not None}
    if isinstance(value, list):
        return [_tidied(part, encoding) for part in value]
    if isinstance(value, bytes):
        try:
            return value.decode(encoding)
        except UnicodeDecodeError:
            return value  # a picture, say: refused where a text is expected
    return value


@contextmanager
def _text(file: Path, form: TableFormat, newline: str | None = None) -> Iterator[TextIO]:
    """An open text file, decompressed if necessary."""
    opened: Any = gzip.open if file.suffix.lower() == ".gz" else open
    encoding = form.encoding or "utf-8"
    try:
        with opened(file, "rb") as content:
            start = content.read(4096)
        marked = next((name for mark, name in MARKS.items() if start.startswith(mark)), None)
        family = (marked or "").removesuffix("-sig")
        if form.encoding and not codecs.lookup(form.encoding).name.startswith(family):
            raise ConfigError("encoding", form.encoding, f"null: {file} begins with the mark of {family}")
        if file.suffix.lower() != ".gz" and (other := _other_kind(file)):
            raise ConfigError("path", str(file), f"text, as its name says: this is {other}")
        if marked is None and form.encoding is None and b"\0" in start:
            allowed = f"text in UTF-8; {file} is in another encoding (utf-16-le, utf-16-be) or is no text"
            raise ConfigError("encoding", None, allowed)
        encoding = marked or encoding
        with opened(file, "rt", encoding=encoding, newline=newline) as lines:
            yield lines
    except (EOFError, gzip.BadGzipFile) as error:
        raise ConfigError("path", str(file), f"a whole file, compressed by gzip: {error}") from error
    except UnicodeDecodeError as error:
        with opened(file, "rb") as content:
            number = next((n for n, line in enumerate(content, start=1) if not _decodes(line, encoding)), 1)
        name = encoding.removesuffix("-sig").upper() if form.encoding is None else form.encoding
        other = "encoding: names another, cp1252 for most files of Excel and Windows"
        allowed = f"text in {name}: line {number} has {error.reason} ({other})"
        raise ConfigError("path", str(file), allowed) from error


def _other_kind(file: Path) -> str | None:
    """What a file is of which the name says something else."""
    with file.open("rb") as content:
        start = content.read(32)
    return next((kind for mark, kind in OTHERS.items() if start.startswith(mark)), None)


def _decodes(line: bytes, encoding: str) -> bool:
    try:
        line.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _json_lines(file: Path, form: TableFormat) -> Iterable[Row]:
    only(form, ("encoding", "columns"), str(file))
    with _text(file, form) as lines:
        yield from json_lines(lines, file, form.columns)


def _json(file: Path, form: TableFormat) -> Iterable[Row]:
    only(form, ("encoding", "columns"), str(file))
    with _text(file, form) as content:
        return json_rows(content.read(), file, form.columns)


def _cells(file: Path, form: TableFormat) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)
    quoting = kind_of(file) != ".tsv" if form.quoting is None else form.quoting
    rule: Any = csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE
    unnamed = quoted = 0
    with _text(file, form, newline="") as lines:
        first = lines.readline()
        said = re.fullmatch(r"sep=(.)\s*", first)  # the first line that Excel writes and reads
        before = line = int(said is not None)
        if said is None:
            lines.seek(0)
        delimiter = said[1] if said and form.delimiter is None else _delimiter(file, first, form, rule)
        reader = csv.reader(lines, delimiter=delimiter, quoting=rule, strict=quoting)
        names = [] if form.columns is None else list(form.columns)
        try:
            for cells in reader:
                line = reader.line_num + before
                if not names:
                    names = _checked_header(file, cells, line)
                    continue
                if tuple(cells) == form.columns:
                    raise ConfigError("columns", cells, f"null: line {line} of {file} has these names itself")
                if not cells:
                    continue
                if len(cells) != len(names):
                    raise ConfigError("path", str(file), _cell_count(cells, names, line, quoting))
                quoted += not quoting and any(_is_quoted(cell) for cell in cells)
                row: Row = dict(zip(names, cells, strict=True))  # of a million rows, each thing done counts
                if "" in row:
                    unnamed += any(cell.strip() for name, cell in zip(names, cells, strict=True) if not name)
                    del row[""]
                if not _NAN.isdisjoint(cells):
                    row = {name: math.nan if cell in _NAN else cell for name, cell in row.items()}
                yield row
        except csv.Error as error:
            allowed = f"quotation marks that close where a cell ends: those of the row from line {line + 1} do not"
            more = f"{allowed} ({error}); quoting: false reads the marks as text"
            raise ConfigError("path", str(file), more) from error
    if unnamed:
        rank_zero_warn(f"a column without a name is not read: {unnamed:,} rows of {file} have something there")
    if quoted and form.quoting is None:
        about = f"{quoted:,} rows of {file} have a cell between quotation marks, which are read as text"
        rank_zero_warn(f"{about}; quoting: true reads them as marks around a cell")


def _delimiter(file: Path, first: str, form: TableFormat, rule: Any) -> str:
    if form.delimiter is not None:
        return form.delimiter
    if kind_of(file) == ".tsv":
        return "\t"
    counts = {mark: len(next(csv.reader([first], delimiter=mark, quoting=rule), [])) for mark in ",;\t"}
    fitting = [mark for mark, n in counts.items() if (n > 1 if form.columns is None else n == len(form.columns))]
    if len(fitting) > 1 and max(counts.values()) > 1:
        marks = " and ".join(map(repr, fitting))
        raise ConfigError("delimiter", None, f"the one that divides cells: {marks} both may, in line 1 of {file}")
    return fitting[0] if fitting else ","


def _checked_header(file: Path, cells: list[str], line: int) -> list[str]:
    names = ["" if not name.strip() else name for name in cells]
    twice = repeated(name for name in names if name)
    if twice:
        raise ConfigError("path", str(file), f"columns with different names: line {line} has {listed(twice)} twice")
    return names


def _cell_count(cells: list[str], names: list[str], line: int, quoting: bool) -> str:
    marks = not quoting and any('"' in cell for cell in cells)
    hint = "; quoting: true reads quotation marks as marks around a cell" if marks else ""
    hint += "; delimiter says what stands between cells" if len(names) == 1 else ""
    return f"{len(names)} cells in every row: line {line} has not, but {len(cells)}{hint}"


def _is_quoted(cell: str) -> bool:
    return len(cell) > 1 and cell[0] == cell[-1] == '"'


def _parquet(file: Path, form: TableFormat) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            schema = table.schema_arrow
            has_bytes = any(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) for kind in schema.types)
            only(form, ("encoding",) if has_bytes else (), str(file))
            if twice := repeated(schema.names):
                raise ConfigError("path", str(file), f"columns with different names: it has {listed(twice)} twice")
            named = class_columns(_features(schema.metadata))
            for rows in table.iter_batches(batch_size=_ROWS_AT_ONCE):
                yield from named_rows(rows.to_pylist(maps_as_pydicts="strict"), named)
    except pyarrow.ArrowInvalid as error:
        other = _other_kind(file)
        said = f"this is {other}" if other not in (None, OTHERS[b"PAR1"]) else str(error)
        raise ConfigError("path", str(file), f"a Parquet file: {said}") from error


def _features(metadata: Mapping[bytes, bytes] | None) -> dict[str, Any]:
    """What ``datasets`` noted of the columns when it wrote the file."""
    try:
        return json.loads((metadata or {}).get(b"huggingface", b"{}"))["info"]["features"] or {}
    except (ValueError, KeyError, TypeError):
        return {}


_READERS: dict[str, Reader] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _cells,
    ".tsv": _cells,
    ".parquet": _parquet,
}
