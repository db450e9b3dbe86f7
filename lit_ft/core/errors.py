"""Errors that name the place, what was given and what is allowed."""

import sys
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


class ConfigError(Exception):
    """A value that a person chose cannot be used.

    Args:
        argument: Name of the argument, as written in YAML below its class (``rho``, ``network.path``).
        given: The value that was given.
        allowed: What would have been accepted, in words.

    Raised inside a method, it also knows the class: ``owner``.

    Example:
        >>> raise ConfigError("rho", -1, "0 or more")
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: rho: given -1; allowed: 0 or more
    """

    def __init__(self, argument: str, given: object, allowed: str) -> None:
        caller = sys._getframe(1).f_locals.get("self")
        self.owner = None if caller is None or isinstance(caller, ConfigError) else type(caller).__name__
        place = argument if self.owner is None or argument.startswith("-") else f"{self.owner}.{argument}"
        super().__init__(f"{place}: given {_shown(given)}; allowed: {allowed}")
        self.argument, self.given, self.allowed = argument, given, allowed

    def __reduce__(self) -> tuple:
        """Pickle as text, so that the error survives a process boundary whatever was given."""
        return _rebuild, (type(self), str(self), self.argument, repr(self.given), self.allowed, self.owner)


class MissingColumn(ConfigError):
    """A table lacks a column that an argument names.

    Args:
        path: The table.
        column: The column.
        allowed: The columns that there are, in words.

    Example:
        >>> raise MissingColumn("rows.csv", "txt", "rows with a column 'txt'; there are text, label")
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.MissingColumn: path: given 'rows.csv'; allowed: rows with a column 'txt'; there are text, ...
    """

    def __init__(self, path: str, column: str, allowed: str) -> None:
        super().__init__("path", path, allowed)
        self.column = column

    def __reduce__(self) -> tuple:
        """As of a ``ConfigError``: where it goes, it is read."""
        return _rebuild, (ConfigError, str(self), self.argument, repr(self.given), self.allowed, self.owner)


class Diverged(Exception):
    """A run whose loss or weights are not finite any more, in one line.

    Example:
        >>> raise Diverged("the loss is not finite since step 12")
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.Diverged: the loss is not finite since step 12
    """


def _shown(given: object) -> str:
    """What was given, never longer than a message: a row may have thousands of columns."""
    text = repr(given)
    return text if len(text) <= 600 else f"{text[:400]} ... {text[-100:]}"


def _rebuild(kind: type, text: str, argument: str, given: str, allowed: str, owner: str | None) -> ConfigError:
    error = kind(argument, given, allowed)
    error.args, error.owner = (text,), owner
    return error


def nearest(name: str, names: Iterable[str]) -> str:
    """The known name that looks most like ``name``, as a clause for an error message, or an empty string.

    Example:
        >>> nearest("relo", ["relu", "tanh"]), nearest("x", ["relu", "tanh"])
        (" (did you mean 'relu'?)", '')
    """
    close = get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def existing(argument: str, path: str | Path) -> Path:
    """The path, or an error when nothing is there."""
    found = Path(path).expanduser()
    if not found.exists():
        raise ConfigError(argument, str(path), "a path that exists")
    return found
