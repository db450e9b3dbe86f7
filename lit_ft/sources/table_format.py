"""How the text of a table is written, where its ending does not say so."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from lit_ft.core.errors import ConfigError

MARKS = {  # of the encoding, at the beginning of a file; those of UTF-32 begin with one of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@dataclass(frozen=True)
class TableFormat:
    """What a person says about the files of a table; None leaves it to the file.

    Args:
        encoding: Encoding of text: ``cp1252``, ``latin-1``, ...; None is UTF-8, or what the mark at the beginning says.
        columns: Names of the columns of a file without a header.
        delimiter: What stands between two cells; None is a tab in ``.tsv``, and in ``.csv`` a comma, or the semicolon
            or tab that alone divides the first line.
        quoting: Whether quotation marks stand around cells; None is true in ``.csv`` and false in ``.tsv``.

    Example:
        >>> TableFormat(encoding="cp1252").given
        {'encoding': 'cp1252'}
    """

    encoding: str | None = None
    columns: tuple[str, ...] | None = None
    delimiter: str | None = None
    quoting: bool | None = None

    @property
    def given(self) -> dict[str, object]:
        """The arguments that are not None, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


def table_format(
    encoding: str | None, columns: Sequence[str] | None, delimiter: str | None, quoting: bool | None
) -> TableFormat:
    """A format whose values can be used.

    Example:
        >>> table_format("cp125", None, None, None)
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: encoding: given 'cp125'; allowed: an encoding that Python knows: utf-8, cp1252,
            latin-1, utf-16, ...
    """
    try:
        found = codecs.lookup(encoding or "utf-8")
    except LookupError:
        found = None
    if found is None or not found._is_text_encoding:
        raise ConfigError("encoding", encoding, "an encoding that Python knows: utf-8, cp1252, latin-1, utf-16, ...")
    delimiter = "\t" if delimiter == "\\t" else delimiter  # as a shell leaves it
    twice = repeated(columns or ())
    if columns is not None and (not columns or twice or not all(name.strip() for name in columns)):
        raise ConfigError("columns", list(columns), "a name for each column, each of them once")
    if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n'):
        raise ConfigError("delimiter", delimiter, "one character, no line break or quotation mark")
    return TableFormat(encoding, None if columns is None else tuple(columns), delimiter, quoting)


def only(form: TableFormat, allowed: Sequence[str], source: str) -> None:
    """Refuse what means nothing for a source.

    Example:
        >>> only(TableFormat(delimiter=";"), ["encoding"], "rows.jsonl")
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: delimiter: given ';'; allowed: null for rows.jsonl, where it means nothing
    """
    for name, value in form.given.items():
        if name not in allowed:
            raise ConfigError(name, value, f"null for {source}, where it means nothing")


def repeated(names: Iterable[str]) -> list[str]:
    """Names that occur twice, once each.

    Example:
        >>> repeated(["text", "label", "text"])
        ['text']
    """
    seen: set[str] = set()
    return list(dict.fromkeys(name for name in names if name in seen or seen.add(name)))  # type: ignore[func-returns-value]


def listed(names: Iterable[object], most: int = 8) -> str:
    """Names for a message, never more than it can hold.

    Example:
        >>> listed("abc"), listed(range(1000), most=3)
        ('a, b, c', '0, 1, 2, ... (1,000 in all)')
    """
    every = [str(name) if len(str(name)) <= 40 else f"{str(name)[:40]}..." for name in names]
    return ", ".join(every) if len(every) <= most else f"{', '.join(every[:most])}, ... ({len(every):,} in all)"
