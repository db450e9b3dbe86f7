"""What several paths are called where they are told apart."""

from collections.abc import Sequence
from pathlib import Path


def ends(paths: Sequence[Path], least: int = 1) -> list[str]:
    """The last parts of each path: as many as tell the paths apart.

    Args:
        paths: One may stand there twice.
        least: Number of parts, where fewer would do.

    Example:
        >>> ends([Path("runs/a/last"), Path("runs/b/last")]), ends([Path("runs/a"), Path("runs/a")])
        (['a/last', 'b/last'], ['a', 'a'])
    """
    depth = least
    while len({path.parts[-depth:] for path in paths}) < len({path.parts for path in paths}):
        depth += 1
    return ["/".join(path.parts[-depth:]) or str(path) for path in paths]
