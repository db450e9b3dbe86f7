"""A study on a Ray cluster of two workers, started here."""

import json
import os
import time
from pathlib import Path

import pytest
import yaml

from lit_ft.command.cli import command
from lit_ft.running.processes import ProcessFailed
from lit_ft.studies.launchers import launcher, make_away, unpack
from lit_ft.studies.runner import Job, is_complete

FIT = ["-c", "base.yaml", "--run_dir=here/run", "--name=run"]
BASE = {
    "model": {
        "class_path": "ImageClassifier",
        "init_args": {
            "network": {"config": {"model_type": "mlp", "width": 4, "depth": 1}},
            "optimizer": {"class_path": "SGD", "init_args": {"lr": 0.1}},
        },
    },
    "data": {"class_path": "Digits", "init_args": {"flat": True, "max_rows": 64}},
    "trainer": {"max_steps": 3, "log_every_n_steps": 1, "limit_val_batches": 0, "accelerator": "cpu"},
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text(yaml.safe_dump(BASE))


def test_a_machine_without_the_disk_of_the_study(tmp_path: Path) -> None:
    """Config files travel there and results travel back."""
    job = Job(FIT, None, "here/run", ())
    packed = make_away(
        job, 1, str(tmp_path / "a folder that only the other machine has"), {"base.yaml": yaml.safe_dump(BASE)}
    )
    assert Path.cwd() != tmp_path
    os.chdir(tmp_path)
    assert not Path("here").exists()
    unpack(packed, Path("here/run"))
    assert is_complete(Path("here/run"))
    assert json.loads(Path("here/run/report.json").read_text())["steps"] == 3
    assert not list(Path("here").rglob("*.ckpt"))


def test_the_same_results_on_a_cluster(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason="ray is not installed (pip install 'lit-ft[ray]')")
    study = {
        "claims": [{"says": "c"}],
        "base": ["base.yaml"],
        "arms": {"a": {}, "broken": {"data": {"init_args": {"max_rows": 0}}}},
        "seeds": [0, 1],
        "measure": {"loss": "train/loss"},
        "test": False,
    }
    Path("s.yaml").write_text(yaml.safe_dump(study))
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)  # this machine may have more than any of the cluster
    try:
        assert command(["study", "s.yaml", "--launcher", "ray", "--jobs", "2", "--runs", "away"]) == 1
        printed = capsys.readouterr().out
        assert "failed: broken seed 0" in printed
        assert "\ndata.init_args.max_rows: given 0; allowed: at least 1" in printed, "as fit says it"
        with launcher("ray") as launch:
            begun = time.monotonic()
            running = launch(Job(["-c", "base.yaml", "--run_dir=x", "--trainer.max_steps=1000000"], None, "x", ()), 1)
            while not Path("x/metrics.csv").exists() and time.monotonic() - begun < 120:
                time.sleep(0.1)
            running.kill(15)
            while not running.poll() and time.monotonic() - begun < 150:
                time.sleep(0.1)
            with pytest.raises(ProcessFailed):
                running.result(1)
    finally:
        ray.shutdown()
    assert command(["study", "s.yaml", "--only", "a", "--runs", "here"]) == 0
    away, here = (sorted(Path(runs).glob("studies/s/a/*/metrics.csv")) for runs in ("away", "here"))
    assert [file.parent.name for file in away] == [file.parent.name for file in here]
    assert [file.read_text() for file in away] == [file.read_text() for file in here]
