"""Paths of a newcomer: configs that come along, runs and what became of them, what loggers and watchers are told."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from lit_ft.command.cli import command
from lit_ft.command.request import Request
from lit_ft.running.run_folder import held


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def config(**trainer: Any) -> None:
    model = {"class_path": "Toy", "init_args": {"network": {"path": "here"}}}
    more = {"max_steps": 2, "accelerator": "cpu", "enable_model_summary": False, **trainer}
    Path("c.yaml").write_text(yaml.safe_dump({"model": model, "data": {"class_path": "ToyData"}, "trainer": more}))


def test_configs_that_come_along_are_found_and_copied(capsys: pytest.CaptureFixture[str]) -> None:
    request = Request.of(["-c", "configs/vision/digits.yaml", "--config=configs/demo.yaml"], "fit")
    assert [Path(path).is_file() for path in request.paths] == [True, True]
    assert request.run_name == "demo"
    assert command(["methods", "--copy", "configs/vision/digits.yaml"]) == 0
    assert "data" in yaml.safe_load(Path("digits.yaml").read_text())
    assert command(["methods", "--copy", "configs/vision/digits.yaml"]) == 2
    assert "a file digits.yaml is here" in capsys.readouterr().err
    assert command(["fit", "-c", "configs/vision/digit.yaml"]) == 2
    assert "did you mean 'configs/vision/digits.yaml'" in capsys.readouterr().err
    Path("configs").mkdir()
    Path("configs/demo.yaml").write_text("seed_everything: 7")
    assert Request.of(["-c", "configs/demo.yaml"], "fit").configs[0].tree == {"seed_everything": 7}, "one's own first"


def test_runs_and_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    for name, status in (("a/1", "finished"), ("a/2", "running"), ("b/1", "running"), ("b/2", "diverged")):
        folder = Path("runs", name)
        folder.mkdir(parents=True)
        (folder / ".start").write_text("1\n")
        (folder / "report.json").write_text(json.dumps({"status": status, "steps": 3, "metrics": {"val/loss": 0.5}}))
    with held(Path("runs/b/1")):
        assert command(["runs"]) == 0
    said = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert said[0] == "runs/a/1  finished, 3 steps, val/loss 0.5"
    assert said[1].startswith("use: lit-ft test --run runs/a/1; longer: lit-ft fit --run runs/a/1 --ckpt_path last")
    assert said[2:4] == [
        "runs/a/2  dead, 3 steps, val/loss 0.5", "begins anew: lit-ft fit --run runs/a/2 --ckpt_path last"
    ]  # fmt: skip
    assert said[4].startswith("runs/b/1  running")
    assert said[5].startswith("runs/b/2  diverged")


def test_loggers_are_told_the_whole_configuration() -> None:
    logger = {"class_path": "CSVLogger", "init_args": {"save_dir": "logs", "name": "it", "version": "one"}}
    config(logger=logger, callbacks=[{"class_path": "SAM", "init_args": {"rho": 0.07}}])
    assert command(["fit", "-c", "c.yaml", "--import", "toy_package"]) == 0
    told = yaml.safe_load(Path("logs/it/one/hparams.yaml").read_text())
    assert told["trainer"]["callbacks"]["SAM"]["rho"] == 0.07
    assert told["data"]["class_path"] == "toy_package.ToyData"


def test_where_nobody_watches_a_fit_says_where_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config(max_steps=12)
    monkeypatch.setattr("lit_ft.running.progress_lines.FIRST", 0.0)
    monkeypatch.setattr("lit_ft.running.progress_lines.EVERY", 0.0)
    assert command(["fit", "-c", "c.yaml", "--import", "toy_package"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fit: step")]
    assert lines[0].startswith("fit: step 1 of 12, ")
    assert "left, loss " in lines[0]
    assert ", val/loss " in lines[-1]
