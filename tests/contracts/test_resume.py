"""A run that was stopped anywhere and resumed equals one that was not: weights, optimizer, order, logged values."""

import os
import signal
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn

from lit_ft.command.run_folders import find_checkpoint
from lit_ft.core.method import Method, Output
from lit_ft.core.schedules import Cosine
from lit_ft.running import run_checkpoint
from lit_ft.running.files import is_whole
from lit_ft.running.processes import ProcessFailed, start
from lit_ft.running.run_checkpoint import RunCheckpoint, newest_whole
from lit_ft.testing import ForeignData, ForeignModule, assert_equal_runs, fit_foreign


class Small(Method):
    """A method with dropout and a schedule that reads the length of the run."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.2), nn.Linear(8, 3))
        super().__init__(network, lambda p: torch.optim.AdamW(p, lr=1e-2), Cosine(warmup=0.1))

    def compute(self, batch: tuple[Tensor, Tensor]) -> Output:
        x, y = batch
        assert self.network is not None
        return Output(nn.functional.cross_entropy(self.network(x), y))

    def loss_weight(self, batch: tuple[Tensor, Tensor]) -> float:
        return len(batch[0])


SHAPES = {
    "epochs": {"max_epochs": 3},
    "accumulated": {"max_epochs": 3, "accumulate_grad_batches": 4},
    "validation inside": {"max_epochs": 3, "val_check_interval": 4},
    "steps": {"max_epochs": None, "max_steps": 29},
    "short epochs": {
        "max_epochs": None,
        "max_steps": 14,
        "accumulate_grad_batches": 2,
        "val_check_interval": 5,
        "limit_train_batches": 9,
    },
    "validation over epochs": {
        "max_epochs": None,
        "max_steps": 29,
        "check_val_every_n_epoch": None,
        "val_check_interval": 5,
    },
}


@pytest.mark.parametrize("make", [ForeignModule, Small])
@pytest.mark.parametrize("shape", list(SHAPES))
def test_resumes_from_any_batch(shape: str, make: type, tmp_path: Path) -> None:
    """Each shape at each moment, with one module or the other; in the next shape they change places."""
    trainer = SHAPES[shape]
    fit_foreign([], tmp_path / "whole", make(), **trainer)
    moments = (5, 10, 11, 12, 21, 23)  # epochs have 11 batches: inside, at the last, at the first of the next
    for crash_at in moments[(list(SHAPES).index(shape) + (make is Small)) % 2 :: 2]:
        folder = tmp_path / str(crash_at)
        fit_foreign([], folder, make(), crash_at=crash_at, **trainer)
        last, _ = newest_whole(folder / "checkpoints")
        assert last is not None
        fit_foreign([], folder, make(), resume=last, **trainer)
        assert_equal_runs(tmp_path / "whole", folder)


def test_the_comparison_can_fail(tmp_path: Path) -> None:
    """Negative control: without the randomness of the checkpoint, dropout draws other masks."""
    fit_foreign([], tmp_path / "whole")
    fit_foreign([], tmp_path / "broken", crash_at=13)
    last, _ = newest_whole(tmp_path / "broken" / "checkpoints")
    assert last is not None
    checkpoint = torch.load(last, weights_only=True)
    checkpoint["run_checkpoint"]["randomness"][0]["torch"] = torch.Generator().manual_seed(99).get_state()
    torch.save(checkpoint, last)
    fit_foreign([], tmp_path / "broken", resume=last)
    with pytest.raises(AssertionError, match="checkpoints differ"):
        assert_equal_runs(tmp_path / "whole", tmp_path / "broken")


@pytest.mark.parametrize("steps", [17, 22])
def test_a_finished_run_goes_on(steps: int, tmp_path: Path) -> None:
    """Longer training from the end of a run (inside an epoch, and at its end) equals training that long at once."""
    fit_foreign([], tmp_path / "whole", max_epochs=None, max_steps=30)
    fit_foreign([], tmp_path / "parts", max_epochs=None, max_steps=steps)
    last, _ = newest_whole(tmp_path / "parts" / "checkpoints")
    fit_foreign([], tmp_path / "parts", resume=last, max_epochs=None, max_steps=30)
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")


def test_data_order_continues(tmp_path: Path) -> None:
    class Record(pl.Callback):
        seen: list[float]

        def __init__(self) -> None:
            self.seen = []

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:  # type: ignore[no-untyped-def]
            self.seen.append(batch[0].sum().item())

    whole, before, after = Record(), Record(), Record()
    fit_foreign([whole], tmp_path / "whole")
    fit_foreign([before], tmp_path / "broken", crash_at=15)
    last, _ = newest_whole(tmp_path / "broken" / "checkpoints")
    fit_foreign([after], tmp_path / "broken", resume=last)
    assert before.seen + after.seen == whole.seen


@pytest.mark.parametrize("damage", ["cut", "bit"])
def test_a_damaged_checkpoint_falls_back(damage: str, tmp_path: Path) -> None:
    fit_foreign([RunCheckpoint(every_n_steps=4, folder=str(tmp_path / "checkpoints"))], tmp_path, crash_at=9)
    newest, _ = newest_whole(tmp_path / "checkpoints")
    assert newest is not None
    content = bytearray(newest.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    else:
        content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    with pytest.warns(UserWarning, match="damaged"):
        found = find_checkpoint("last", tmp_path)
    assert found < newest
    assert is_whole(found)


def test_keeps_as_many_as_asked(tmp_path: Path) -> None:
    trainer = pl.Trainer(
        max_epochs=2,
        callbacks=[RunCheckpoint(every_n_steps=3, keep=2, monitor="val/loss")],
        logger=False,
        default_root_dir=tmp_path,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(ForeignModule(), datamodule=ForeignData())
    names = sorted(path.name for path in (tmp_path / "checkpoints").glob("*.ckpt"))
    assert names == ["best.ckpt", "step=00000021.ckpt", "step=00000022.ckpt"]


@pytest.mark.parametrize(("old", "saved"), [(1e9, [22]), (0.0, [11, 22])])
def test_epochs_begin_with_a_checkpoint_when_the_last_is_old(
    old: float, saved: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An epoch may be one batch; the run goes on from either, as from any other checkpoint."""
    monkeypatch.setattr(run_checkpoint, "OLD", old)
    fit_foreign([RunCheckpoint(every_n_steps=None, keep=9)], tmp_path / "whole")
    names = sorted(path.name for path in (tmp_path / "whole" / "checkpoints").glob("*.ckpt"))
    assert names == [f"step={step:08d}.ckpt" for step in saved]
    if len(saved) > 1:
        fit_foreign([RunCheckpoint(every_n_steps=None, keep=9)], tmp_path / "broken", crash_at=15)
        last, _ = newest_whole(tmp_path / "broken" / "checkpoints")
        fit_foreign([RunCheckpoint(every_n_steps=None, keep=9)], tmp_path / "broken", resume=last)
        assert_equal_runs(tmp_path / "whole", tmp_path / "broken")


class Kill(pl.Callback):
    """Ends the process in the middle of a micro-batch."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_train_batch_start(self, *args: object) -> None:
        self.at -= 1
        if self.at < 0:
            os.kill(os.getpid(), signal.SIGKILL)


FIT = {"max_epochs": 3, "accumulate_grad_batches": 2}


def fit_and_die(folder: Path, die_at: int) -> None:
    """In a process of its own: no chance to tidy up."""
    fit_foreign([RunCheckpoint(every_n_steps=1), Kill(die_at)], folder, **FIT)


def test_resumes_after_sigkill_in_mid_epoch(tmp_path: Path) -> None:
    fit_foreign([RunCheckpoint(every_n_steps=1)], tmp_path / "whole", **FIT)
    with pytest.raises(ProcessFailed) as failure:
        start(fit_and_die, tmp_path / "killed", 15).result()
    assert failure.value.exit_code == -signal.SIGKILL
    last, _ = newest_whole(tmp_path / "killed" / "checkpoints")
    assert last is not None
    fit_foreign([RunCheckpoint(every_n_steps=1)], tmp_path / "killed", resume=last, **FIT)
    assert_equal_runs(tmp_path / "whole", tmp_path / "killed")
