"""Seeded splits into rows for training, validation and test."""

from __future__ import annotations

import numpy as np

from lit_ft.core.errors import ConfigError

SPLITS = ("train", "val", "test")


def split_rows(n: int, val_fraction: float, test_fraction: float, seed: int) -> dict[str, list[int]]:
    """Disjoint row numbers of each split; a function of the arguments alone.

    Args:
        n: Number of rows.
        val_fraction: Share of the rows for validation, in [0, 1).
        test_fraction: Share of the rows for the test, in [0, 1).
        seed: Seed of the draw.
    """
    check_fractions(val_fraction, test_fraction)
    order = np.random.default_rng(seed).permutation(n).tolist()
    val, test = round(val_fraction * n), round(test_fraction * n)
    return {"val": order[:val], "test": order[val : val + test], "train": order[val + test :]}


def check_fractions(val_fraction: float, test_fraction: float) -> None:
    """Refuse shares that leave nothing to train on."""
    for name, value in (("val_fraction", val_fraction), ("test_fraction", test_fraction)):
        if not 0 <= value < 1:
            raise ConfigError(name, value, "a share of the rows in [0, 1)")
    if val_fraction + test_fraction >= 1:
        raise ConfigError(
            "val_fraction", val_fraction, f"less than {1 - test_fraction:g}: test_fraction takes the rest"
        )
