"""Errors that name the place, what was given and what is allowed."""

from collections.abc import Iterable
from difflib import get_close_matches


class ConfigError(Exception):
    """A value that a person chose cannot be used.

    Not a ValueError: the parser of the command takes a ValueError of a constructor for "try the next type".

    Args:
        argument: Name of the argument, as written in YAML below its class (``rho``, ``network.path``).
        given: The value that was given.
        allowed: What would have been accepted, in words.
    """

    def __init__(self, argument: str, given: object, allowed: str) -> None:
        super().__init__(f"{argument}: given {given!r}; allowed: {allowed}")
        self.argument, self.given, self.allowed = argument, given, allowed

    def __reduce__(self) -> tuple:
        """Pickle by arguments, so that the error survives a process boundary."""
        return type(self), (self.argument, self.given, self.allowed)


def nearest(name: str, names: Iterable[str]) -> str:
    """The known name that looks most like ``name``, as a clause for an error message, or an empty string."""
    close = get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
