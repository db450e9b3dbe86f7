"""A run whose loss or weights are no numbers: where it ends, and what of it stays."""

import json
import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_ft.callbacks import NotFinite, RunCheckpoint, RunReport
from lit_ft.core.errors import Diverged
from lit_ft.studies.measures import Measure
from lit_ft.testing import ForeignModule, fit_foreign


class Breaks(pl.Callback):
    """Makes weights infinite after a step, too late for the loss of that step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            torch.nn.init.constant_(next(module.parameters()), math.inf)


class LossWithout(ForeignModule):
    """Whose loss is no number in the fifth step, though its gradient is one."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        return loss + math.inf if self.trainer.global_step == 4 else loss


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.ckpt"))


def test_weights_that_are_not_finite_replace_no_checkpoint(tmp_path: Path) -> None:
    """In somebody's project with RunCheckpoint alone, at its next checkpoint and at the end."""
    for every, step, left in ((2, 5, [2, 4]), (None, 22, [])):
        saves = RunCheckpoint(every, folder=str(tmp_path / str(every)), monitor="val/loss")
        with pytest.raises(Diverged, match=f"the weights are not finite at step {6 if every else 22}"):
            fit_foreign([saves, Breaks(step)])
        found = [path.name for path in sorted((tmp_path / str(every)).glob("step=*.ckpt"))]
        assert found == [f"step={number:08d}.ckpt" for number in left]
    best = torch.load(tmp_path / "None" / "best.ckpt", weights_only=True)
    assert best["global_step"] == 11, "of the second validation no weights are taken"


def test_a_run_may_go_on_and_keeps_what_was_finite(tmp_path: Path) -> None:
    saves, report = RunCheckpoint(2, folder=str(tmp_path)), RunReport(str(tmp_path))
    with pytest.warns(UserWarning, match="not finite any more: they are not saved"):
        _, trainer = fit_foreign([saves, NotFinite("go on"), Breaks(5), report])
    assert trainer.global_step == 22
    assert names(tmp_path) == ["step=00000002.ckpt", "step=00000004.ckpt"]
    assert json.loads((tmp_path / "report.json").read_text())["status"] == "diverged"


@pytest.mark.parametrize(("every", "at"), [(1, 5), (4, 8), (100, 22)])
def test_a_loss_ends_the_run_when_it_is_read(every: int, at: int, tmp_path: Path) -> None:
    report = RunReport(str(tmp_path))
    with pytest.raises(Diverged, match="the loss is not finite since step 5; NotFinite with then: go on"):
        fit_foreign([NotFinite(), report], module=LossWithout(), log_every_n_steps=every)
    told = json.loads((tmp_path / "report.json").read_text())
    assert (told["status"], told["steps"]) == ("diverged", at)
    assert math.isnan(Measure("steps").read(tmp_path)), "a study takes no number of it"


def test_the_last_step_counts() -> None:
    with pytest.raises(Diverged, match="the weights are not finite after step 22"):
        fit_foreign([NotFinite(), Breaks(22)], log_every_n_steps=100)


def test_checkpoints_of_lightning_are_kept_from_them_too(tmp_path: Path) -> None:
    saves = ModelCheckpoint(tmp_path, every_n_train_steps=2, save_last=True, save_top_k=0)
    with pytest.raises(Diverged, match="not finite at step"):
        fit_foreign([NotFinite(), Breaks(5), saves], log_every_n_steps=100, enable_checkpointing=True)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 4


def test_nothing_waits_for_the_device_between_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    plain = torch.Tensor.__float__
    watched = NotFinite()

    def reading(tensor: torch.Tensor) -> float:
        if tensor is watched._since:
            read.append(1)
        return plain(tensor)

    monkeypatch.setattr(torch.Tensor, "__float__", reading)
    fit_foreign([watched], log_every_n_steps=10)
    assert len(read) == 3, "at steps 10 and 20, and at the end of 22"
