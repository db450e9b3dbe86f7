"""Every callback in two gloo processes: the ranks end with the same weights, bit by bit, after as many steps.

A callback that changes each rank's gradient or weights apart from the other's, or waits for a rank that does not come,
fails here. One group of processes trains with all callbacks, one after another.
"""

import os
import tempfile
import traceback
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from lit_ft.running.processes import run_ranks
from lit_ft.testing import ForeignData, ForeignModule, fit_foreign
from tests.example import OfCallback, class_of, rows

EXAMPLES = {name: row for name, row in rows(OfCallback).items() if row.module is ForeignModule}


class Apart(Callback):
    """The control: moves the weights of each rank by its number."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        with torch.no_grad():
            pl_module.model[0].bias.add_(1e-3 * trainer.global_rank)  # type: ignore[index, operator, union-attr]


def train(folder: str) -> dict[str, Any]:
    """On one rank: the steps and weights with each callback, or what it raised."""
    os.chdir(tempfile.mkdtemp(dir=folder))
    found: dict[str, Any] = {}
    makers = {name: row.make for name, row in EXAMPLES.items()}
    for name, make in {**makers, "control": Apart}.items():
        try:
            module, trainer = fit_foreign(
                [make()], module=ForeignModule(norm=False), data=ForeignData(28), strategy="ddp", devices=2
            )
        except Exception:
            found[name] = traceback.format_exc()[-1500:]
            continue
        weights = {key: value.tolist() for key, value in module.state_dict().items()}
        found[name] = trainer.world_size, trainer.global_step, weights
    return found


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_ranks(train, 2, str(tmp_path_factory.mktemp("ranks")), timeout=240)


@pytest.mark.parametrize("name", [name for name, row in EXAMPLES.items() if not row.one_process])
def test_two_ranks_agree(name: str, ranks: list[dict[str, Any]]) -> None:
    first, second = ranks[0][name], ranks[1][name]
    assert not isinstance(first, str), first
    assert first[:2] == (2, 2 * 4)  # of seven batches each rank has four
    assert first == second


@pytest.mark.parametrize("name", [name for name, row in EXAMPLES.items() if row.one_process])
def test_what_needs_one_process_refuses_two(name: str, ranks: list[dict[str, Any]]) -> None:
    assert f"{class_of(name)}.trainer.devices: given 2; allowed: one device" in str(ranks[0][name])


def test_the_comparison_can_fail(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["control"] != ranks[1]["control"]
