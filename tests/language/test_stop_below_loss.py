"""Convergence edit by edit: loops by hand, and two orders that are one for a single edit."""

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from lit_ft.callbacks import StopBelowLoss
from lit_ft.core.errors import ConfigError
from lit_ft.language.model_edits import Order, editing_plan
from lit_ft.testing import fit_foreign

ROWS = torch.eye(3)
TARGETS = torch.tensor([[1.0], [-2.0], [3.0]])


class Line(pl.LightningModule):
    """One number for each row: rows do not meet, so that each has a loss of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1, bias=False)
        nn.init.zeros_(self.layer.weight)
        self.trace: list[torch.Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.trace.append(self.layer.weight.detach().clone())
        return (self.layer(ROWS[batch]) - TARGETS[batch]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.1, weight_decay=0.05)


class Edits(pl.LightningDataModule):
    def __init__(self, order: Order, passes: int, rows: int = 3) -> None:
        super().__init__()
        self.plan = editing_plan(rows, 1, passes, order)

    def train_dataloader(self) -> Any:
        return DataLoader(list(range(3)), batch_sampler=self.plan(0))


def run(data: Edits, loss: float = 0.05, **trainer: Any) -> tuple[Line, StopBelowLoss, pl.Trainer]:
    callback = StopBelowLoss(loss)
    module, fitted = fit_foreign([callback], module=Line(), data=data, limit_val_batches=0, **trainer)
    return module, callback, fitted  # type: ignore[return-value]


def test_an_edit_that_holds_is_left_for_the_next_one() -> None:
    """Depth-first under AdamW with decay: a loop that optimises each row until its loss is small, then the next."""
    data = Edits("depth_first", 60)
    module, callback, _ = run(data, max_epochs=1)
    byhand = Line()
    optimizer, taken = byhand.configure_optimizers(), 0
    for (row,) in data.plan(0)[::60]:
        for _ in range(60):
            loss = byhand.training_step(torch.tensor([row]), 0)
            if loss < 0.05:
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            taken += 1
    assert 0 < callback.skipped == 3 * 60 - taken
    assert torch.equal(module.layer.weight, byhand.layer.weight)


def test_breadth_first_ends_with_the_first_pass_over_rows_that_all_hold() -> None:
    module, callback, trainer = run(Edits("breadth_first", 1), max_epochs=200)
    assert callback.report() == {"skipped": callback.skipped, "ended": True}
    losses = torch.stack([(w[0] - TARGETS[:, 0]).square() for w in module.trace])
    means = torch.stack([losses[first : first + 3][range(3), rows].mean() for first, rows in enumerate_passes(module)])
    assert trainer.global_step == len(module.trace) < 600
    assert (means[:-1] >= 0.05).all()
    assert means[-1] < 0.05


def enumerate_passes(module: Line) -> list[tuple[int, list[int]]]:
    order = [row for (row,) in editing_plan(3, 1, 1, "breadth_first")(0)]
    return [(first, order) for first in range(0, len(module.trace), 3)]


def test_one_edit_is_the_same_in_both_orders() -> None:
    deep, _, _ = run(Edits("depth_first", 60, rows=1), max_epochs=1)
    broad, callback, trainer = run(Edits("breadth_first", 1, rows=1), max_epochs=60)
    assert torch.equal(deep.layer.weight, broad.layer.weight)
    assert callback.ended
    assert trainer.global_step < 60


def test_the_loss_is_that_of_the_window() -> None:
    """Three rows accumulated: a row that holds does not stop the others."""
    _, callback, _ = run(Edits("breadth_first", 1), loss=4.6, max_epochs=1, accumulate_grad_batches=3)
    assert callback.skipped == 0  # (1 + 4 + 9) / 3 = 4.67
    _, callback, _ = run(Edits("breadth_first", 1), loss=4.7, max_epochs=9, accumulate_grad_batches=3)
    assert callback.report() == {"skipped": 1, "ended": True}


class Skips(Line):
    """Has no loss for the first row, or for none."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor | None:  # type: ignore[override]
        return None if int(batch) < self.rows else super().training_step(batch, batch_idx)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_step_without_a_loss_is_not_counted(rows: int) -> None:
    callback = StopBelowLoss(1e-6)
    fit_foreign([callback], module=Skips(rows), data=Edits("breadth_first", 2), limit_val_batches=0, max_epochs=1)
    assert callback.report() == {"skipped": 0, "ended": False}


def test_bad_input() -> None:
    for loss in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="above 0"):
            StopBelowLoss(loss)
