"""Which folder a run gets, which run is the last one, and who may write where."""

import csv
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from lit_ft.command.cli import command, load_run
from lit_ft.command.request import Request
from lit_ft.command.run_folders import find_run, placed
from lit_ft.running.run_folder import START, by_start, held

CONFIG: dict[str, Any] = {
    "model": {"class_path": "Toy", "init_args": {"network": {"path": "here"}, "width": 5}},
    "data": {"class_path": "ToyData"},
    "trainer": {
        "max_steps": 12,
        "log_every_n_steps": 1,
        "accelerator": "cpu",
        "enable_model_summary": False,
    },
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    Path("toy.yaml").write_text("# a config\n" + yaml.safe_dump(CONFIG))


def lit_ft(*arguments: str) -> int:
    return command([*arguments, "--import", "toy_package"])


def the_run(name: str = "toy") -> Path:
    return find_run(Path("runs"), name, finished=False)


def contents(folder: str) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_a_run_does_not_begin_in_the_folder_of_another(capsys: pytest.CaptureFixture[str]) -> None:
    """``last`` would be the checkpoint with more steps, whichever run it is of."""
    assert lit_ft("fit", "-c", "toy.yaml", "--run_dir", "here") == 0
    before = contents("here")
    assert lit_ft("fit", "-c", "toy.yaml", "--run_dir", "here", "--trainer.max_steps=4", "--seed_everything=7") == 2
    assert "--run_dir: given 'here'; allowed: a folder without checkpoints; --ckpt_path last" in capsys.readouterr().err
    assert contents("here") == before
    assert lit_ft("fit", "-c", "toy.yaml", "--run_dir", "here", "--ckpt_path=last", "--trainer.max_steps=16") == 0
    Path("a_file").write_text("")
    assert lit_ft("fit", "-c", "toy.yaml", "--run_dir", "a_file") == 2
    assert "this is a file" in capsys.readouterr().err


def test_a_run_without_a_checkpoint_begins_anew_where_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    """When it is asked to go on; its files are not touched before training begins, nor by a fit of another run."""
    assert lit_ft("fit", "-c", "toy.yaml", "--run_dir", "whole") == 0
    Path("dead/checkpoints").mkdir(parents=True)
    rows = Path("whole/metrics.csv").read_text()
    Path("dead/metrics.csv").write_text("".join(rows.splitlines(keepends=True)[:6]))
    Path("dead/report.json").write_text(json.dumps({"status": "running", "wall_seconds": 1e6}))
    Path("dead/config.yaml").write_text("of: the dead one")
    Path("dead/checkpoints/best.ckpt").write_text("weights alone")
    before = contents("dead")
    assert lit_ft("fit", "-c", "toy.yaml", "--run_dir", "dead") == 2
    assert "--run_dir: given 'dead'" in capsys.readouterr().err
    last = ("fit", "-c", "toy.yaml", "--run_dir", "dead", "--ckpt_path=last")
    assert lit_ft(*last, "--trainer.devices=0") == 2
    assert contents("dead") == before
    assert lit_ft(*last) == 0
    assert "fit: dead has no checkpoint; it begins anew" in capsys.readouterr().out
    assert Path("dead/config.yaml").read_text() == Path("whole/config.yaml").read_text()
    assert Path("dead/metrics.csv").read_text() == rows
    assert json.loads(Path("dead/report.json").read_text())["wall_seconds"] < 1e6
    assert [path.name for path in Path("dead/checkpoints").iterdir() if path.suffix == ".ckpt"] == [
        "step=00000012.ckpt"
    ]
    for left in Path("dead/checkpoints").iterdir():
        left.unlink()
    before = contents("dead")
    assert lit_ft("fit", "-c", "dead/config.yaml", "--run_dir", "dead", "--ckpt_path=last") == 2, "it has finished"
    assert contents("dead") == before
    Path("mine").mkdir()
    own = "# my words\n" + Path("toy.yaml").read_text()
    Path("mine/config.yaml").write_text(own)
    assert lit_ft("fit", "-c", "mine/config.yaml", "--run_dir", "mine") == 0
    assert Path("mine/config.yaml").read_text() == own


def test_the_newest_run_is_the_last_that_was_started(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its number, whatever the clock says; the second of two starts in one second has a folder of its own."""
    days = iter((3, 1, 1, 2))

    class Steps(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime(2030, 1, next(days))

    monkeypatch.setattr("lit_ft.command.run_folders.datetime", Steps)
    for steps in (4, 5, 6):
        assert lit_ft("fit", "-c", "toy.yaml", f"--trainer.max_steps={steps}") == 0
    runs = [Path("runs/toy") / name for name in ("2030-01-03_00-00-00", "2030-01-01_00-00-00", "2030-01-01_00-00-00_2")]
    assert [json.loads((run / "report.json").read_text())["number"] for run in runs] == [1, 2, 3]
    with placed(Request.of(["-c", "toy.yaml", "--import", "toy_package"], "fit")) as (folder, checkpoint, _):
        killed = contents(str(folder)), folder
        assert checkpoint is None
    assert not folder.exists(), "nothing came of it"
    folder.mkdir()
    for path, content in killed[0].items():
        path.write_bytes(content)
    assert the_run() == folder, "what was killed before its first step is the newest"
    assert lit_ft("test", "-c", "toy.yaml", "--ckpt_path", "last") == 0
    assert f"takes the weights from step 6, {runs[2]}" in capsys.readouterr().out, "the newest that has finished"
    before = contents("runs/toy")
    assert lit_ft("fit", "-c", "toy.yaml", "--ckpt_path", "last") == 0
    assert f"fit: {folder} has no checkpoint; it begins anew" in capsys.readouterr().out
    assert before.items() - contents("runs/toy").items() == set(killed[0].items()), "and no other is changed"
    assert json.loads((folder / "report.json").read_text())["number"] == 4


def test_a_folder_belongs_to_one_process_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert lit_ft("fit", "-c", "toy.yaml", "--run_dir", "here", "--trainer.max_steps=4") == 0
    before = contents("here")
    with held(Path("here")):
        for arguments in (("fit", "--ckpt_path=last"), ("test", "--ckpt_path=last"), ("predict", "--ckpt_path=last")):
            assert lit_ft(*arguments, "-c", "toy.yaml", "--run_dir", "here") == 2
            assert "a folder in which no other process works" in capsys.readouterr().err
        assert lit_ft("test", "-c", "toy.yaml", "--run", "here", "--run_dir", "elsewhere") == 0
    (Path("here") / START).unlink()
    assert contents("here") == before


@pytest.mark.parametrize("given", ["another run", "its own earlier checkpoint"])
def test_going_on_from_a_file_spares_other_runs(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    every = '--trainer.callbacks=[{"class_path": "RunCheckpoint", "init_args": {"every_n_steps": 2}}]'
    for folder in ("a", "b"):
        assert lit_ft("fit", "-c", "toy.yaml", "--run_dir", folder, every, "--trainer.max_steps=4") == 0
    before = contents("b")
    file = f"{'a' if given == 'another run' else 'b'}/checkpoints/step=00000002.ckpt"
    status = lit_ft("fit", "-c", "toy.yaml", "--ckpt_path", file, "--run_dir", "b", every, "--trainer.max_steps=3")
    if given == "another run":
        assert (status, contents("b")) == (2, before)
        assert "--run_dir: given 'b'; allowed: a folder without checkpoints" in capsys.readouterr().err
    else:
        assert (status, json.loads(Path("b/report.json").read_text())["steps"]) == (0, 3)


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning")
def test_the_last_checkpoint_of_lightnings_callback_is_seen(capsys: pytest.CaptureFixture[str]) -> None:
    """Where it is alone; beside ours, which resumes exactly, it is named. No row is there twice."""
    theirs = {"class_path": "ModelCheckpoint", "init_args": {"every_n_train_steps": 5, "save_last": True}}
    alone = f"--trainer.callbacks={json.dumps([theirs])}"
    assert lit_ft("fit", "-c", "toy.yaml", "--run_dir=it", alone, "--trainer.max_steps=7") == 0
    assert lit_ft("fit", "-c", "toy.yaml", "--run_dir=it", alone, "--ckpt_path=last") == 0
    assert "fit: goes on from step 5, it/checkpoints/last.ckpt" in capsys.readouterr().out
    with Path("it/metrics.csv").open(newline="") as file:
        steps = [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert steps == list(range(12))
    for path in Path("it/checkpoints").iterdir():
        path.unlink()
    ours = {"class_path": "RunCheckpoint", "init_args": {"every_n_steps": 3}}
    both = f"--trainer.callbacks={json.dumps([theirs, ours])}"
    assert lit_ft("fit", "-c", "toy.yaml", "--run_dir=both", both, "--trainer.max_steps=5") == 0
    for path in Path("both/checkpoints").glob("step=00000005.ckpt*"):
        path.unlink()
    capsys.readouterr()
    assert lit_ft("fit", "-c", "toy.yaml", "--run_dir=both", both, "--ckpt_path=last") == 0
    said = capsys.readouterr().out
    assert "newer, of another callback: both/checkpoints/last.ckpt at step 5" in said
    assert "goes on from step 3" in said


@pytest.fixture
def read_only() -> Iterator[Callable[..., None]]:
    """Makes folders that nothing can be written to, also for root."""
    made: list[str] = []

    def make(*folders: str) -> None:
        for folder in folders:
            Path(folder).chmod(0o555)
            made.append(folder)
            if os.access(folder, os.W_OK):
                subprocess.run(["chattr", "+i", folder], check=False, capture_output=True)
            if os.access(folder, os.W_OK):
                pytest.skip("nothing is read-only for this user here")

    yield make
    for folder in made:
        subprocess.run(["chattr", "-i", folder], check=False, capture_output=True)
        Path(folder).chmod(0o755)


def test_a_read_only_run_serves_where_a_place_to_write_is_named(
    read_only: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    assert lit_ft("fit", "-c", "toy.yaml", "--run_dir=it", "--trainer.max_steps=2") == 0
    before = contents("it")
    read_only("it/checkpoints", "it")
    for stage in ("test", "validate", "predict"):
        capsys.readouterr()
        assert lit_ft(stage, "--run=it") == 2
        assert capsys.readouterr().err.startswith("lit-ft: --run_dir: given 'it'; allowed: a folder to write to")
        assert lit_ft(stage, "--run=it", f"--run_dir={stage}") == 0
        assert any(Path(stage).iterdir())
    assert load_run("it").model.width == 5
    assert contents("it") == before
    Path("runs").mkdir()
    read_only("runs")
    capsys.readouterr()
    for arguments in (["--name=new"], ["--run_dir=runs/new"], ["--run_dir=it", "--ckpt_path=last"]):
        assert lit_ft("fit", "-c", "toy.yaml", *arguments) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1, error


def test_a_broken_report_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """By what reads it; it does not keep other runs of the name from being found."""
    for _ in range(2):
        assert lit_ft("fit", "-c", "toy.yaml", "--trainer.max_steps=2") == 0
    first, second = sorted(Path("runs/toy").iterdir(), key=by_start)
    (first / "report.json").write_text('{"status": ')
    for arguments in (["test", "-c", "toy.yaml", "--run", str(first)], ["report", str(first)]):
        capsys.readouterr()
        assert command([*arguments, *(["--import", "toy_package"] if arguments[0] == "test" else [])]) == 2
        assert f"report.json: given '{first}/report.json'; allowed: a report" in capsys.readouterr().err
    assert lit_ft("test", "-c", "toy.yaml", "--ckpt_path=last") == 0
    assert str(second) in capsys.readouterr().out
