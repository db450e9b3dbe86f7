"""The cards of the papers: one file each, with what carries the paper here and where it is tried."""

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from lit_ft.core.plain import from_mapping
from lit_ft.core.yaml_text import read_yaml

FOLDER = Path(__file__).parents[1] / "papers"


@dataclass
class Card:
    """One paper; what has not been built yet has the first four fields alone.

    Args:
        title: As published.
        authors: In their order.
        year: Of the first version.
        arxiv: Its number there; None where there is none.
        classes: Names of the classes that carry it.
        equation: Import path of what computes its central equation, within one screen.
        configs: Files in ``configs/`` that run it, the shortest way in first.
        studies: Studies that try its claims.
    """

    title: str
    authors: str
    year: int
    arxiv: str | None
    classes: list[str] = field(default_factory=list)
    equation: str = ""
    configs: list[str] = field(default_factory=list)
    studies: list[str] = field(default_factory=list)


@cache
def cards() -> dict[str, Card]:
    """All cards by the id of their paper, in the order of the ids."""
    files = sorted(FOLDER.glob("*.yaml"), key=lambda file: (file.stem[0], int(file.stem[1:])))
    trees = {file.stem: read_yaml(file.read_text(encoding="utf-8"), str(file)) for file in files}
    return {paper: from_mapping(Card, tree, paper) for paper, tree in trees.items()}
