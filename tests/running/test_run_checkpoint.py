"""What belongs to a run goes on with it: its best weights, and that it had stopped by itself."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping

from lit_ft.callbacks import NotFinite, RunCheckpoint, RunReport
from lit_ft.running.files import is_whole
from lit_ft.running.processes import run_ranks
from lit_ft.running.run_checkpoint import newest_whole
from lit_ft.testing import ForeignModule, assert_equal_runs, fit_foreign


def saves(folder: Path) -> RunCheckpoint:
    return RunCheckpoint(3, monitor="val/loss", mode="max", folder=str(folder))  # so that the first is the best


def test_the_best_weights_go_along_into_a_new_folder(tmp_path: Path) -> None:
    fit_foreign([saves(tmp_path / "a")])
    last = tmp_path / "a" / "step=00000021.ckpt"
    fit_foreign([saves(tmp_path / "b")], resume=last, max_epochs=3)
    best = tmp_path / "b" / "best.ckpt"
    assert is_whole(best)
    assert best.read_bytes() == (tmp_path / "a" / "best.ckpt").read_bytes()
    assert torch.load(best, weights_only=True)["global_step"] == 11
    (tmp_path / "a" / "best.ckpt").write_text("damaged")
    with pytest.warns(UserWarning, match="no whole best.ckpt beside"):
        fit_foreign([saves(tmp_path / "c")], resume=last, max_epochs=3)
    assert torch.load(tmp_path / "c" / "best.ckpt", weights_only=True)["global_step"] == 22, "the best from there on"


def test_what_a_kill_left_half_written_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".step=00000003.ckpt.tmp").write_text("half")
    (tmp_path / ".best.ckpt.tmp").mkdir()
    fit_foreign([saves(tmp_path)], max_steps=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step=00000001.ckpt", "step=00000001.ckpt.sha256"]


def report(folder: Path) -> dict[str, Any]:
    kept = json.loads((folder / "report.json").read_text())
    clock = ("started", "wall_seconds", "cpu_seconds", "samples_per_second", "tokens_per_second", "peak_memory_bytes")
    return {key: value for key, value in kept.items() if key not in clock}


@pytest.mark.parametrize("limits", [{"max_epochs": 2}, {"max_steps": 13}, {"max_epochs": 9}])
def test_a_run_that_was_killed_before_its_report_is_finished(limits: dict[str, int], tmp_path: Path) -> None:
    """At the end of an epoch, inside of one, and where it had stopped by itself; more patience lets it train on."""

    def fit(folder: Path, patience: int = 1, **more: Any) -> int:
        stopping = EarlyStopping("val/loss", patience=patience, min_delta=1e9)
        _, trainer = fit_foreign([saves(folder / "checkpoints"), RunReport(str(folder)), stopping], folder, **more)
        return trainer.global_step

    steps = fit(tmp_path / "whole", **limits)
    assert fit(tmp_path / "killed", **limits) == steps
    file = tmp_path / "killed" / "report.json"
    began = {"status": "running", "steps": 0, "wall_seconds": 1e6, "samples_per_second": 2.0}
    file.write_text(json.dumps({**json.loads(file.read_text()), **began}))
    last, _ = newest_whole(tmp_path / "killed" / "checkpoints")
    assert fit(tmp_path / "killed", resume=last, **limits) == steps
    assert report(tmp_path / "killed") == report(tmp_path / "whole")
    told = json.loads(file.read_text())
    assert told["wall_seconds"] > 1e6
    assert told["samples_per_second"] == pytest.approx(2.0, rel=1e-3)
    assert_equal_runs(tmp_path / "whole", tmp_path / "killed")
    before = file.read_bytes()
    assert fit(tmp_path / "killed", resume=last, **limits) == steps
    assert file.read_bytes() == before, "there was nothing left to do"
    if limits == {"max_epochs": 9}:
        assert fit(tmp_path / "killed", patience=2, resume=last, **limits) == steps + 11


def test_a_report_counts_what_was_before_a_kill(tmp_path: Path) -> None:
    """Each checkpoint notes steps and times; a run that begins anew counts from its own start."""

    class Dies(Exception):
        pass

    class Kill(RunReport):
        def on_exception(self, *arguments: Any) -> None:
            """Nothing is written any more."""

        def on_train_batch_end(self, trainer: Any, *arguments: Any) -> None:
            super().on_train_batch_end(trainer, *arguments)
            if trainer.global_step == 8:
                raise Dies

    with pytest.raises(Dies):
        fit_foreign([saves(tmp_path / "checkpoints"), Kill(str(tmp_path))], tmp_path)
    left = json.loads((tmp_path / "report.json").read_text())
    assert (left["status"], left["steps"]) == ("running", 6)
    assert left["wall_seconds"] > 0
    assert left["samples_per_second"] * left["wall_seconds"] == pytest.approx(24)
    fit_foreign([RunReport(str(tmp_path))], max_steps=2)
    again = json.loads((tmp_path / "report.json").read_text())
    assert again["samples_per_second"] * again["wall_seconds"] == pytest.approx(8)


class Terminates(pl.Callback):
    """Sends SIGTERM to one rank after a step."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == 3 and trainer.global_rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def stopped(folder: str) -> Any:
    callbacks: list[pl.Callback] = [RunCheckpoint(100, keep=1), RunReport(folder), NotFinite(), Terminates()]
    try:
        fit_foreign(callbacks, Path(folder), make_module=Plain, strategy="ddp", devices=2)
    except SystemExit as ended:
        return ended.code


class Plain(ForeignModule):
    def __init__(self) -> None:
        super().__init__(norm=False)


def test_all_ranks_save_and_end_when_one_is_asked_to(tmp_path: Path) -> None:
    assert run_ranks(stopped, 2, str(tmp_path)) == [143, 143]
    saved, _ = newest_whole(tmp_path / "checkpoints")
    assert saved is not None
    assert saved.name == "step=00000003.ckpt"
    assert json.loads((tmp_path / "report.json").read_text())["status"] == "interrupted"
