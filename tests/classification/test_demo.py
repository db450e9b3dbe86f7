"""The demo's claim on real weights and real headlines, at two fifths of its length."""

from pathlib import Path

import pytest

from lit_ft.command.run import execute

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.real
@pytest.mark.slow
def test_fine_tuning_beats_the_probe_on_frozen_features(tmp_path):
    steps = ["--trainer.max_steps=60", "--trainer.val_check_interval=60", "--runs", str(tmp_path)]
    run = execute("fit", ["-c", str(CONFIGS / "demo.yaml"), *steps])
    (probe,) = (c for c in run.trainer.callbacks if type(c).__name__ == "FeatureProbe")
    measured = probe.report()["first"]
    assert measured["majority"] < 0.6 < 0.7 < measured["accuracy"]
    assert run.metrics["val/accuracy"] > measured["accuracy"] + 0.03
    tested = execute("test", ["-c", str(CONFIGS / "demo.yaml"), "--run", str(run.folder), "--ckpt_path", "last"])
    assert tested.metrics["test/accuracy"] > measured["accuracy"] + 0.03
