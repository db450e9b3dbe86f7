"""A folder that has rows already, and a report that has parts of callbacks which are there no more."""

import json
from pathlib import Path

import pytest
import torch

from lit_ft.callbacks import RunCheckpoint, RunReport, WarmStart
from lit_ft.running.metrics_file import MetricsFile
from lit_ft.testing import fit_foreign


def test_the_columns_of_another_run_stay(tmp_path: Path) -> None:
    first, second = MetricsFile(tmp_path), MetricsFile(tmp_path)
    first.log_metrics({"a": 1.0, "b": 2.0, "epoch": 0}, step=1)
    first.finalize("")
    second.log_metrics({"b": 3.0, "c": 4.0, "epoch": 0}, step=2)
    second.log_metrics({"a": 5.0, "epoch": 0}, step=3)
    assert second.path.read_text() == "step,epoch,a,b,c\n1,0,1.0,2.0,\n2,0,,3.0,4.0\n3,0,5.0,,\n"
    assert second.rows == 3


@pytest.mark.parametrize("killed", [False, True])
def test_the_part_of_a_warm_start_survives_a_resume(killed: bool, tmp_path: Path) -> None:
    """Also where the command that goes on names no run to start from, and where a kill left no time for a report."""
    torch.save({"state_dict": {"model.0.bias": torch.ones(12)}}, tmp_path / "other.ckpt")
    start = WarmStart(tmp_path / "other.ckpt")
    with pytest.MonkeyPatch.context() as patch:
        if killed:
            patch.setattr(RunReport, "on_train_end", lambda *_: None)
        fit_foreign([start, RunReport(str(tmp_path)), RunCheckpoint()], tmp_path, max_steps=2)
    assert json.loads((tmp_path / "report.json").read_text())["status"] == ("running" if killed else "finished")
    for steps, callbacks in ((3, []), (4, [WarmStart(tmp_path / "other.ckpt")]), (5, [])):
        last = tmp_path / f"checkpoints/step={steps - 1:08d}.ckpt"
        fit_foreign([*callbacks, RunReport(str(tmp_path)), RunCheckpoint()], tmp_path, resume=last, max_steps=steps)
        report = json.loads((tmp_path / "report.json").read_text())
        assert report["callbacks"]["WarmStart"] == {"loaded": 1, "kept": 8, "unused": 0}
