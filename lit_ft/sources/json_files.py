"""Rows in JSON: an object in every line, a list of objects, or an object that holds them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from io import StringIO
from itertools import chain
from json.decoder import JSONObject  # type: ignore[attr-defined]
from json.scanner import py_make_scanner  # type: ignore[attr-defined]
from pathlib import Path
from typing import Any, TextIO

from lit_ft.core.errors import ConfigError
from lit_ft.running.saying import say
from lit_ft.sources.table_format import listed, repeated

Row = dict[str, Any]


class _TwiceError(ValueError):
    """An object has a key twice."""


def json_lines(lines: TextIO, file: Path, columns: Sequence[str] | None) -> Iterator[Row]:
    r"""The rows of a file with an object in every line; a list of objects under this name is read as a whole.

    Args:
        lines: The open file.
        file: Its name, for messages.
        columns: Names of the columns where every line is a list.

    Example:
        >>> import io
        >>> list(json_lines(io.StringIO('{"a": 1}\n\n{"a": 2}\n'), Path("x.jsonl"), None))
        [{'a': 1}, {'a': 2}]
        >>> list(json_lines(io.StringIO('[{"a": 1},\n{"a": 2}]'), Path("x.jsonl"), None))
        [{'a': 1}, {'a': 2}]
        >>> list(json_lines(io.StringIO('{"a": 1, "a": 2}\n'), Path("x.jsonl"), None))
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: path: given 'x.jsonl'; allowed: JSON in every line: line 1 has the key 'a' twice
    """
    started = False
    # a file ends lines at \n, \r\n and \r alone: strings may hold U+2028, at which splitlines() splits
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row, fault = _loaded(line)
        unlike = isinstance(fault, json.JSONDecodeError) or (isinstance(row, list) and any(map(_is_object, row)))
        if unlike and not started:
            text = "\n" * (number - 1) + line + lines.read()
            if not isinstance(_loaded(text)[1], json.JSONDecodeError):
                yield from json_rows(text, file, columns)
                return
        if fault is not None:
            what = getattr(fault, "msg", str(fault))
            raise ConfigError("path", str(file), f"JSON in every line: line {number} has {what}") from fault
        started = True
        yield _named(row, f"line {number}", "an object in every line", file, columns, line)


def json_rows(text: str, file: Path, columns: Sequence[str] | None) -> list[Row]:
    """The rows of a document: a list of objects, an object of them by their ids, or an object with one such list.

    Args:
        text: The document.
        file: Its name, for messages.
        columns: Names of the columns where every row is a list.

    Example:
        >>> json_rows('{"7": {"text": "a"}, "9": {"text": "b"}}', Path("x.json"), None)
        [{'text': 'a'}, {'text': 'b'}]
        >>> json_rows('{"text": "a"}', Path("x.json"), None)
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: path: given 'x.json'; allowed: a list of objects, unlike an object with text
    """
    found, fault = _loaded(text)
    if isinstance(fault, json.JSONDecodeError):
        if fault.msg == "Extra data":  # JSONL under another name
            return list(json_lines(StringIO(text), file, columns))
        raise ConfigError("path", str(file), f"valid JSON: line {fault.lineno} has {fault.msg}") from fault
    if fault is not None:
        allowed = f"different keys in an object: the one that begins in line {_line_of_twice(text)} has {fault}"
        raise ConfigError("path", str(file), allowed) from fault
    rows = _rows_of(found, file)
    halves = text if "\\ud" in text.lower() else ""
    return [_named(row, f"row {n}", "a list of objects", file, columns, halves) for n, row in enumerate(rows, start=1)]


def _rows_of(found: Any, file: Path) -> list[Any]:
    if isinstance(found, list):
        return found
    if not isinstance(found, dict) or not found:
        raise ConfigError("path", str(file), "a list of objects")
    values = list(found.values())
    if all(map(_is_object, values)):
        inner = list(values[0])
        if inner == list(map(str, range(len(inner)))) and all(list(value) == inner for value in values):
            return [{name: value[i] for name, value in found.items()} for i in inner]  # columns by the number of a row
        return values
    if len(found) > 1 and _are_columns(values):
        say(f"the rows of {file} are those of its columns {listed(found)}")
        return [dict(zip(found, row, strict=True)) for row in zip(*values, strict=True)]
    lists = [name for name, value in found.items() if isinstance(value, list) and value and all(map(_is_object, value))]
    if len(lists) == 1 and not any(name in ("role", "from") for name in chain(*found[lists[0]])):
        say(f"the rows of {file} are those of its key {lists[0]!r}")
        return found[lists[0]]
    raise ConfigError("path", str(file), f"a list of objects, unlike an object with {listed(found)}")


def _named(row: Any, place: str, wanted: str, file: Path, columns: Sequence[str] | None, text: str) -> Row:
    """A row as an object, its characters whole."""
    if columns is not None and isinstance(row, list):
        if len(row) != len(columns):
            raise ConfigError("columns", list(columns), f"{len(row)} names, as {place} of {file} has {len(row)} values")
        row = dict(zip(columns, row, strict=True))
    elif columns is not None:
        raise ConfigError("columns", list(columns), f"null for {file}, whose rows have names themselves")
    if not isinstance(row, dict):
        raise ConfigError("path", str(file), f"{wanted}: {place} is a {type(row).__name__}")
    if "\\ud" in text.lower() and not _is_whole(json.dumps(row, ensure_ascii=False)):
        raise ConfigError("path", str(file), f"whole characters: {place} has half of one (\\ud800 to \\udfff alone)")
    return row


def _are_columns(values: list[Any]) -> bool:
    """Whether values are lists of one length, of no objects."""
    lists = all(isinstance(value, list) and not any(map(_is_object, value)) for value in values)
    return lists and len(set(map(len, values))) == 1 and len(values[0]) > 0


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_whole(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _loaded(text: str) -> tuple[Any, ValueError | None]:
    try:
        return json.loads(text, object_pairs_hook=_object), None
    except ValueError as error:
        return None, error


def _object(pairs: list[tuple[str, Any]]) -> Row:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _TwiceError(f"the key {repeated(name for name, _ in pairs)[0]!r} twice")
    return found


def _line_of_twice(text: str) -> int:
    """The line in which the innermost object begins that has a key twice."""
    decoder: Any = json.JSONDecoder(object_pairs_hook=_object)  # of what it parses with, the stubs know nothing
    lines: list[int] = []

    def parsed(start: tuple[str, int], *more: Any) -> Any:
        try:
            return JSONObject(start, *more)
        except _TwiceError:
            lines.append(text.count("\n", 0, start[1]) + 1)
            raise

    decoder.parse_object = parsed
    decoder.scan_once = py_make_scanner(decoder)
    with suppress(_TwiceError):
        decoder.decode(text)
    return lines[0]
