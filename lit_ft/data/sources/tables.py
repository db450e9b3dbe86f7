"""Rows from a file, a packaged asset, or any source of ``datasets``."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_ft.core.errors import ConfigError, nearest
from lit_ft.data.sources.assets import PREFIX, packaged

Row = dict[str, Any]


def read_rows(path: str, required: Sequence[str] = (), split: str = "train", max_rows: int | None = None) -> list[Row]:
    """All rows of a table, as dicts.

    Args:
        path: A file (``.jsonl``, ``.ndjson``, ``.json``, ``.csv``, ``.tsv``, ``.parquet``), ``packaged:NAME``, or what
            ``datasets.load_dataset`` or ``load_from_disk`` takes: a folder or a hub id (``user/name`` or
            ``user/name:configuration``).
        required: Columns that every row must have, with a value.
        split: The split of a ``datasets`` source.
        max_rows: Read no more than the first so many.

    Raises:
        ConfigError: No such file, no row, a broken line (with its number), or a column that is missing (with the
            nearest name that there is).
    """
    file = packaged(path) if path.startswith(PREFIX) else Path(path).expanduser()
    reader = _READERS.get(file.suffix.lower())
    if reader and file.is_file():
        rows = reader(file)
    elif reader:
        raise ConfigError("path", path, f"a file that exists; nothing is at {file.absolute()}")
    else:
        rows = _from_datasets(path, split, max_rows)
    rows = rows[:max_rows]
    if not rows:
        raise ConfigError("path", path, "a source with at least one row")
    for number, row in enumerate(rows, start=1):
        _check_columns(path, number, row, required)
    return rows


def _check_columns(path: str, number: int, row: Row, required: Sequence[str]) -> None:
    for column in required:
        if row.get(column) is None:
            state = "is empty" if column in row else f"is missing; there are {', '.join(map(str, row))}"
            hint = "" if column in row else nearest(column, map(str, row))
            raise ConfigError("path", path, f"rows with a column {column!r}: in row {number} it {state}{hint}")


def _json_lines(file: Path) -> list[Row]:
    rows = []
    # only \n ends a line: strings may hold U+2028, at which splitlines() splits
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ConfigError("path", str(file), f"JSON in every line: line {number} has {error.msg}") from error
        if not isinstance(row, dict):
            raise ConfigError("path", str(file), f"an object in every line: line {number} is a {type(row).__name__}")
        rows.append(row)
    return rows


def _json(file: Path) -> list[Row]:
    try:
        rows = json.loads(file.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            return _json_lines(file)  # JSONL under another name
        raise ConfigError("path", str(file), f"valid JSON: line {error.lineno} has {error.msg}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ConfigError("path", str(file), "a list of objects")
    return rows


def _csv(file: Path) -> list[Row]:
    csv.field_size_limit(2**31 - 1)
    with file.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, delimiter="\t" if file.suffix.lower() == ".tsv" else ",")
        rows: list[Row] = []
        for row in reader:
            if None in row or None in row.values():
                columns = len(reader.fieldnames or [])
                raise ConfigError("path", str(file), f"{columns} cells in every row: line {reader.line_num} has not")
            rows.append(dict(row))
    return rows


def _parquet(file: Path) -> list[Row]:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(file).to_pylist()


_READERS = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
}


def _from_datasets(path: str, split: str, max_rows: int | None) -> list[Row]:
    from datasets import DatasetDict, load_dataset, load_from_disk

    folder = Path(path).expanduser()
    if not folder.exists() and (path.startswith((".", "/", "~")) or path.count("/") > 1):
        raise ConfigError("path", path, f"a file, a folder or a hub id; nothing is at {folder.absolute()}")
    try:
        if (folder / "dataset_info.json").exists() or (folder / "dataset_dict.json").exists():
            found = load_from_disk(str(folder))
            found = found[split] if isinstance(found, DatasetDict) else found
        elif folder.exists():
            found = load_dataset(str(folder), split=split)
        else:
            hub_id, _, configuration = path.partition(":")
            found = load_dataset(hub_id, configuration or None, split=split)
    except Exception as error:  # the library raises many kinds, among them those of the network
        reason = str(error).strip().split("\n")[0][:300]
        raise ConfigError("path", path, f"a source that `datasets` can load (split {split!r}): {reason}") from error
    found = found if max_rows is None else found.select(range(min(max_rows, len(found))))
    return found.to_list()
