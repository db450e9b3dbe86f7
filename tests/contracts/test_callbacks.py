"""Every callback of the package through the same contracts, one row each."""

import inspect
from collections.abc import Callable
from pathlib import Path

import pytest
from lightning.pytorch.callbacks import Callback

import lit_ft.callbacks
from lit_ft.callbacks import SAM, EdgeOfStability
from lit_ft.testing import check_callback

# class: (as used, in the setting that does nothing or None)
ROWS: dict[str, tuple[Callable[[], Callback], Callable[[], Callback] | None]] = {
    "EdgeOfStability": (lambda: EdgeOfStability(2, save_vectors=True), lambda: EdgeOfStability(every_n_steps=2)),
    "SAM": (lambda: SAM(rho=0.05), lambda: SAM(rho=0.0)),
}

# written for runs of the package's own command and tested there
ELSEWHERE = {"RunCheckpoint", "RunReport", "WarmStart"}


def public_callbacks() -> set[str]:
    return {
        name
        for name, value in vars(lit_ft.callbacks).items()
        if inspect.isclass(value) and issubclass(value, Callback) and value.__module__.startswith("lit_ft")
    }


def test_every_callback_has_a_row() -> None:
    assert public_callbacks() - ELSEWHERE == set(ROWS)


@pytest.mark.parametrize("name", list(ROWS))
def test_contracts(name: str, tmp_path: Path) -> None:
    make, no_op = ROWS[name]
    check_callback(make, tmp_path, no_op)
