"""The account of a run, against arithmetic."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from lit_ft.callbacks import GradientMask, TrainingFlops
from lit_ft.core.errors import ConfigError
from lit_ft.core.selection import Names, RandomElements
from lit_ft.running.metrics_file import read_history
from lit_ft.testing import BATCH, ForeignModule, fit_foreign


def multiplications(module: pl.LightningModule) -> list[int]:
    return [child.weight.numel() for name, child in module.named_modules() if name in ("model.0", "model.4")]


def test_a_run_is_the_sum_of_its_steps(tmp_path: Path) -> None:
    fit_foreign([TrainingFlops()], tmp_path, max_steps=7)
    _, values = read_history(tmp_path / "metrics.csv")["training_flops/all"]
    first, second = multiplications(ForeignModule())
    each = 2 * BATCH * (2 * first + 3 * second)
    assert values[-1] == pytest.approx(7 * each, rel=1e-6)
    assert read_history(tmp_path / "metrics.csv")["training_flops/nonzero"][1] == values


def test_zeros_are_left_out(tmp_path: Path) -> None:
    mask = GradientMask(RandomElements(0.25, patterns=["[04].weight"], others=True), outside="zero")
    fit_foreign([mask, TrainingFlops()], tmp_path, max_steps=4)
    history = read_history(tmp_path / "metrics.csv")
    whole, some = history["training_flops/all"][1][-1], history["training_flops/nonzero"][1][-1]
    assert some / whole == pytest.approx(0.25, abs=0.01)


def test_frozen_layers_need_no_backward_pass(tmp_path: Path) -> None:
    fit_foreign([GradientMask(Names(["4.*"])), TrainingFlops()], tmp_path, max_steps=1)
    first, second = multiplications(ForeignModule())
    found = read_history(tmp_path / "metrics.csv")["training_flops/all"][1][-1]
    assert found == pytest.approx(2 * BATCH * (first + 2 * second), rel=1e-6)


class Adversaries(ForeignModule):
    """Two optimizers by hand: the second network reads what the first one makes, once detached and once not."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.first, self.second = nn.Linear(6, 5, bias=False), nn.Linear(5, 3, bias=False)

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        one, two = self.optimizers()  # type: ignore[misc, attr-defined]
        for optimizer, made in ((two, self.first(batch[0]).detach()), (one, self.first(batch[0]))):
            optimizer.zero_grad()
            self.manual_backward(self.second(made).square().mean())
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(part.parameters()) for part in (self.first, self.second)]


def test_a_step_by_hand_counts_all_of_its_passes(tmp_path: Path) -> None:
    fit_foreign([TrainingFlops()], tmp_path, Adversaries(), max_epochs=-1, max_steps=14)
    _, values = read_history(tmp_path / "metrics.csv")["training_flops/all"]
    first, second = 6 * 5, 5 * 3
    detached = first + 2 * second  # forward; forward and weight
    attached = 2 * first + 3 * second  # forward and weight; forward, weight and input
    assert values[-1] == 7 * 2 * BATCH * (detached + attached)


def test_every_evaluation_of_lbfgs_counts(tmp_path: Path) -> None:
    calls = []

    class Searching(ForeignModule):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            calls.append(batch_idx)
            return super().training_step(batch, batch_idx)

        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.parameters(), max_iter=4)

    module = Searching()
    fit_foreign([TrainingFlops()], tmp_path, module, max_steps=3)
    _, values = read_history(tmp_path / "metrics.csv")["training_flops/all"]
    first, second = multiplications(module)
    assert len(calls) > 3
    assert values[-1] == pytest.approx(len(calls) * 2 * BATCH * (2 * first + 3 * second), rel=1e-6)


def test_refused() -> None:
    with pytest.raises(ConfigError, match="every_n_steps"):
        TrainingFlops(every_n_steps=0)
