"""A value that is watched is named once; what follows takes the best weights, and says which."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lit_ft.command.cli import command, load_run
from lit_ft.command.run_folders import find_checkpoint, find_run

CONFIG: dict[str, Any] = {
    "model": {"class_path": "Toy", "init_args": {"network": {"path": "here"}, "width": 5}},
    "data": {"class_path": "ToyData"},
    "trainer": {"max_steps": 30, "accelerator": "cpu", "enable_model_summary": False, "val_check_interval": 2},
}
DIVERGES = {"class_path": "SGD", "init_args": {"lr": 0.3, "momentum": 0.9}}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    Path("toy.yaml").write_text("# a config\n" + yaml.safe_dump(CONFIG))


def lit_ft(*arguments: str) -> int:
    return command([*arguments, "--import", "toy_package"])


def the_run(name: str = "toy") -> Path:
    return find_run(Path("runs"), name, finished=False)


def callback(name: str, **arguments: Any) -> str:
    return "--trainer.callbacks=" + json.dumps([{"class_path": name, "init_args": arguments}])


@pytest.mark.parametrize(
    "named", ["--monitor=val/loss", callback("EarlyStopping", monitor="val/loss"), "monitor: val/loss"]
)
def test_a_value_named_once_ends_the_run_and_keeps_its_best(named: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = {**CONFIG["model"]["init_args"], "optimizer": DIVERGES}
    content = yaml.safe_dump({**CONFIG, "model": {"class_path": "Toy", "init_args": arguments}})
    in_file = named.startswith("monitor")
    Path("toy.yaml").write_text(content + named * in_file)
    assert lit_ft("fit", "-c", "toy.yaml", *([] if in_file else [named])) == 0
    run = the_run()
    assert json.loads((run / "report.json").read_text())["steps"] < 30
    best, last = (torch.load(find_checkpoint(which, run), weights_only=True) for which in ("best", "last"))
    state = next(state for name, state in last["callbacks"].items() if name.startswith("RunCheckpoint"))
    assert (state["best_of"], state["best_step"]) == ("val/loss", best["global_step"])
    capsys.readouterr()
    for stage in ("test", "validate", "predict"):
        assert lit_ft(stage, "-c", "toy.yaml") == 0
        said = capsys.readouterr().out
        assert (
            f"{stage}: takes the weights from step {best['global_step']}, {run}/checkpoints/best.ckpt (best: val"
            in said
        )
    for key, value in load_run(run).model.state_dict().items():
        assert torch.equal(value, best["state_dict"][key])
    assert lit_ft("test", "-c", "toy.yaml", "--ckpt_path=last") == 0
    assert "/step=" in capsys.readouterr().out


def test_a_callback_of_lightnings_tells_its_best(capsys: pytest.CaptureFixture[str]) -> None:
    assert lit_ft("fit", "-c", "toy.yaml", callback("ModelCheckpoint", monitor="val/loss", save_last=True)) == 0
    for arguments in ([], ["--ckpt_path=best"]):
        assert lit_ft("test", "-c", "toy.yaml", *arguments) == 0
        assert "/checkpoints/epoch=" in capsys.readouterr().out
    assert lit_ft("test", "-c", "toy.yaml", "--ckpt_path=last") == 0
    assert "/checkpoints/last.ckpt" in capsys.readouterr().out


def test_without_a_run_the_network_is_used_as_built_and_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert lit_ft("test", "-c", "toy.yaml") == 0
    said = "test: the network is used as it was built: "
    assert f"{said}there is no run of the name 'toy' in runs/" in capsys.readouterr().out
    assert lit_ft("fit", "-c", "toy.yaml", "--trainer.max_steps=2") == 0
    capsys.readouterr()
    assert lit_ft("test", "-c", "toy.yaml") == 0
    assert "takes the weights from step 2" in capsys.readouterr().out
    assert lit_ft("test", "-c", "toy.yaml", "--ckpt_path=none") == 0
    assert f"{said}--ckpt_path none" in capsys.readouterr().out
    assert lit_ft("test", "-c", str(the_run() / "config.yaml")) == 0
    assert f"(--run {the_run()} takes the weights of that run)" in capsys.readouterr().out
    for written in ("last", "best"):
        assert lit_ft("test", "-c", "toy.yaml", "--name=other", f"--ckpt_path={written}") == 2
        assert "--ckpt_path: given" in capsys.readouterr().err
    assert lit_ft("test", "-c", "toy.yaml", "--ckpt_path=best") == 2
    assert "a run that watched a value, as fit --monitor val/loss does" in capsys.readouterr().err
    Path("runs/half/one").mkdir(parents=True)
    Path("runs/half/one/report.json").write_text('{"status": "running"}')
    assert lit_ft("test", "-c", "toy.yaml", "--name=half") == 2
    assert "a finished run of the name 'half'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "refused"),
    [
        (["--monitor=val/los"], "monitor: given 'val/los'; allowed: a logged key: val/loss (did you mean 'val/loss'?)"),
        ([callback("EarlyStopping", monitor="val/los")], "trainer.callbacks[0].init_args.monitor: given 'val/los'"),
        ([callback("RunCheckpoint", monitor="val/los")], "trainer.callbacks[0].init_args.monitor: given 'val/los'"),
        ([callback("ModelCheckpoint", monitor="val/los")], "trainer.callbacks[0].init_args.monitor: given 'val/los'"),
        ([callback("EarlyStopping", monitor="val/loss", mode="max")], "mode: given 'max'; allowed: min, as val/loss"),
    ],
)
def test_a_key_that_is_not_logged_is_refused_before_a_step(
    arguments: list[str], refused: str, capsys: pytest.CaptureFixture[str]
) -> None:
    named = yaml.safe_load(arguments[0].partition("=")[2]) if arguments[0].startswith("--trainer.callbacks") else None
    if named:  # places are those of a file
        Path("toy.yaml").write_text(yaml.safe_dump({**CONFIG, "trainer": {**CONFIG["trainer"], "callbacks": named}}))
        arguments = []
    assert lit_ft("fit", "-c", "toy.yaml", *arguments) == 2
    assert refused in capsys.readouterr().err
    assert not list(Path("runs").rglob("report.json"))


def test_a_run_that_ends_before_its_first_validation_says_so() -> None:
    with pytest.warns(UserWarning, match="val/loss is watched, and was never logged"):
        assert (
            lit_ft("fit", "-c", "toy.yaml", callback("EarlyStopping", monitor="val/loss"), "--trainer.max_steps=1") == 0
        )
