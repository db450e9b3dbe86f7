"""Every method and every data module: broken off in the middle and resumed, bit for bit the same run.

Weights, optimizer state, order of the data and logged values are compared by ``assert_resumes``.
"""

import copy
import pickle
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from lit_ft.core.errors import ConfigError
from lit_ft.running.run_checkpoint import newest_whole
from lit_ft.testing import assert_resumes, difference, fit_foreign
from tests.example import OfRun, rows

ROWS = rows(OfRun)
pytestmark = [
    pytest.mark.usefixtures("empty_folder"),
    pytest.mark.parametrize(
        "row", [pytest.param(row, id=name, marks=[pytest.mark.real] * row.real) for name, row in ROWS.items()]
    ),
]


def test_resumes_exactly(row: OfRun, tmp_path: Path) -> None:
    """The run dies inside an epoch and inside a window of accumulation; its checkpoint makes the method again."""
    fit = {"crash_at": 5, "max_epochs": 2, "accumulate_grad_batches": 2, **row.fit}
    assert_resumes(pl.Callback, tmp_path / "run", make_module=row.module, make_data=row.data, **fit)
    path, _ = newest_whole(tmp_path / "run" / "whole" / "checkpoints")
    assert path is not None
    with nullcontext() if row.alone else pytest.raises(ConfigError, match="the network it started from"):
        again = type(row.module()).load_from_checkpoint(path, map_location="cpu", weights_only=True)
    if row.alone:
        assert not difference(dict(again.state_dict()), torch.load(path, weights_only=True)["state_dict"])


def test_the_same_objects_serve_again(row: OfRun) -> None:
    """One epoch and one more are two; and data that have served in a fit serve the next one like new ones."""
    data = pickle.loads(pickle.dumps(copy.deepcopy(row.data())))
    limits = {"limit_train_batches": 4, "limit_val_batches": 2}
    limits |= {name: min(limits[name], value) for name, value in row.fit.items() if name in limits}

    def module() -> Any:
        made: Any = row.module()
        made.optimizer = lambda parameters: torch.optim.SGD(parameters, lr=0.05)  # has no state that a fit forgets
        return made

    parts, trainer = fit_foreign([], data=data, make_module=module, max_epochs=1, **limits)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(parts, datamodule=data)
    again, _ = fit_foreign([], data=data, make_module=module, **limits)
    fresh, _ = fit_foreign([], make_data=row.data, make_module=module, **limits)
    if row.lasting:
        assert not difference(dict(parts.state_dict()), dict(fresh.state_dict())), "two fits of one trainer"
    assert not difference(dict(again.state_dict()), dict(fresh.state_dict())), "data of another fit"
