"""Lightning's EarlyStopping beside our callbacks: the last step is measured and reported, whatever the order."""

import json
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import EarlyStopping

from lit_ft.callbacks import EdgeOfStability, Forgetting
from lit_ft.running.run_report import RunReport
from lit_ft.testing import ForeignData, fit_foreign

EPOCH = 11  # steps


def fit(folder: Path, first: bool, stopping: EarlyStopping, **trainer: Any) -> dict[str, Any]:
    ours = [RunReport(str(folder)), Forgetting({"old": ForeignData()}, every_n_steps=7), EdgeOfStability(5)]
    callbacks = [stopping, *ours] if first else [*ours, stopping]
    fit_foreign(callbacks, folder, **{"max_epochs": 6, **trainer})
    return json.loads((folder / "report.json").read_text())


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("after_validation", [True, False])
def test_the_last_step_is_in_the_report(first: bool, after_validation: bool, tmp_path: Path) -> None:
    stopping = EarlyStopping(
        "val/loss", patience=2, min_delta=1e9, check_on_train_epoch_end=not after_validation
    )  # the first epoch is better than nothing, two are not
    report = fit(tmp_path, first, stopping)
    assert (report["status"], report["steps"], stopping.stopped_epoch) == ("finished", 3 * EPOCH, 2)
    assert report["callbacks"]["Forgetting"]["steps"] == [0, 7, 14, 21, 28, 3 * EPOCH]
    measured = report["callbacks"]["EdgeOfStability"]
    assert measured["measurements"] == 7  # at steps 0, 5 ... 30
    assert measured["sharpness"]["last"] == pytest.approx(report["metrics"]["edge_of_stability/lambda_1"])


def test_a_stop_that_has_to_wait_is_not_the_end(tmp_path: Path) -> None:
    stopping = EarlyStopping("val/loss", stopping_threshold=1e9)
    report = fit(tmp_path, True, stopping, min_epochs=2)
    assert report["steps"] == 2 * EPOCH
    assert report["callbacks"]["Forgetting"]["steps"] == [0, 7, 14, 21, 22]
