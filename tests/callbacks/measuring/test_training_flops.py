"""The account of a run, against arithmetic."""

from pathlib import Path

import lightning.pytorch as pl
import pytest

from lit_ft.callbacks import GradientMask, TrainingFlops
from lit_ft.core.errors import ConfigError
from lit_ft.core.running.metrics_file import read_history
from lit_ft.core.selection import Names, RandomElements
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


def test_refused() -> None:
    with pytest.raises(ConfigError, match="every_n_steps"):
        TrainingFlops(every_n_steps=0)
