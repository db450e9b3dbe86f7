"""Seeded splits into rows for training, validation and test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from lit_ft.core.checks import Range
from lit_ft.core.errors import ConfigError

SPLITS = ("train", "val", "test")
NEW = "new"
"""Rows that are only to be predicted."""
NAMES = {  # what others call them, as `datasets` knows them too
    "train": ("train", "training"),
    "val": ("val", "validation", "valid", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
Share = Annotated[float, Range(low=0, below=1)]


@dataclass(frozen=True)
class Splits:
    """Shares and limits of the rows of each split.

    Args:
        val_fraction: Share of the rows for validation, in [0, 1).
        test_fraction: Share of the rows for the test, in [0, 1).
        max_rows: Most rows for training; None takes all.
        max_eval_rows: Most rows for validation and for the test each; None takes all.
        seed: Seed of the draw.

    Example:
        >>> splits = Splits(val_fraction=0.2, test_fraction=0.1, max_rows=5)
        >>> {split: len(rows) for split, rows in splits.draw(10).items()}
        {'val': 2, 'test': 1, 'train': 7}
        >>> splits.limit("train"), splits.limit("val")
        (5, None)
    """

    val_fraction: float = 0.1
    test_fraction: float = 0.0
    max_rows: int | None = None
    max_eval_rows: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse shares that leave nothing to train on."""
        _check_sum(self.val_fraction, self.test_fraction)

    def draw(self, n: int, val: bool = True, test: bool = True) -> dict[str, list[int]]:
        """Disjoint row numbers of each split, before any limit; a function of the arguments alone.

        Args:
            n: Number of rows.
            val: Whether to draw rows for validation.
            test: Whether to draw rows for the test.
        """
        order = np.random.default_rng(self.seed).permutation(n).tolist()
        end = round(self.val_fraction * n) if val else 0
        start = end + (round(self.test_fraction * n) if test else 0)
        return {"val": order[:end], "test": order[end:start], "train": order[start:]}

    def limit(self, split: str) -> int | None:
        """Most rows of a split; None takes all."""
        return self.max_rows if split == "train" else self.max_eval_rows


def _check_sum(val_fraction: float, test_fraction: float) -> None:
    # outside of the class, so that the error names the data module whose arguments these are, and not Splits
    if val_fraction + test_fraction >= 1:
        raise ConfigError(
            "val_fraction", val_fraction, f"less than {1 - test_fraction:g}: test_fraction takes the rest"
        )


def own_names(names: Iterable[str]) -> dict[str, str]:
    """Which of the given names stand for training, validation and test.

    Args:
        names: Names of the splits or folders of a source.

    Raises:
        ConfigError: Two of them stand for the same.

    Example:
        >>> own_names(["train", "dev", "extra"])
        {'train': 'train', 'val': 'dev'}
    """
    found: dict[str, str] = {}
    for name in names:
        split = next((split for split in SPLITS if name.lower() in NAMES[split]), None)
        if split in found:
            raise ConfigError("path", f"{found[split]} and {name}", f"one of them, as both may be the {split} split")
        if split is not None:
            found[split] = name
    return {split: found[split] for split in SPLITS if split in found}


def first_with_rows(rows: Mapping[str, Sized]) -> str:
    """The split to predict: the test, else validation, else training.

    Example:
        >>> first_with_rows({"train": [1, 2], "val": [3], "test": []})
        'val'
    """
    return next((split for split in reversed(SPLITS) if len(rows.get(split, ()))), "train")
