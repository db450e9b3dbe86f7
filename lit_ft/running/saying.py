"""Lines for the person at the terminal, beside what a command prints."""

import sys

from lightning.pytorch.utilities.rank_zero import rank_zero_only


@rank_zero_only
def say(line: str) -> None:
    """Write a line to standard error, once among all processes; it is no warning, and no log leaves it out.

    Example:
        >>> say("rows.csv: read as text")
    """
    print(line, file=sys.stderr)
