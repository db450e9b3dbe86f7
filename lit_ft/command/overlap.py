"""``lit-ft overlap FILE FILE ...``: how much of the weights of one task are those of another."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from lit_ft.command.path_ends import ends
from lit_ft.core.errors import ConfigError, existing
from lit_ft.core.selection.base import count
from lit_ft.sparse.file import SavedSelection
from lit_ft.sparse.regions import shared_parts


def overlap_command(argv: Sequence[str]) -> int:
    """Print, for each pair of saved selections, which share of the row's entries the column has, too."""
    from rich.console import Console
    from rich.table import Table

    from lit_ft.command.run import load_run

    parser = argparse.ArgumentParser(
        "lit-ft overlap", description="Shares of entries that saved selections have in common."
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="selections in run folders, such as graft.safetensors")
    options, further = parser.parse_known_args(list(argv))
    files = [existing("FILE", file) for file in options.files]
    if len(set(files)) < 2:
        raise ConfigError("FILE", ", ".join(map(str, files)), "at least two selections")
    module = load_run(files[0].parent, further, "overlap").model
    regions = {
        label: SavedSelection(str(file)).select(module) for label, file in zip(labels(files), files, strict=True)
    }
    grid = Table("of / in", *regions, "entries", "density", box=None)
    for label, parts in shared_parts(regions, module).items():
        size, total = count(regions[label], module)
        grid.add_row(label, *(f"{part:.4f}" for part in parts.values()), f"{size:,}", f"{size / total:.3g}")
    console = Console()
    console.print(grid)
    console.print("By chance a column would have its density.")
    return 0


def labels(files: Sequence[Path]) -> list[str]:
    """What tells the paths apart: without the end that all share, the fewest last parts that differ, no suffix."""
    paths = [file.with_suffix("") for file in files]
    while len({path.name for path in paths}) == 1 and min(len(path.parts) for path in paths) > 1:
        paths = [path.parent for path in paths]
    return ends(paths)
