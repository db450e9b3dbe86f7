"""The command as a person uses it: fit, test, resume, errors. In one process, but for the ones that must be killed."""

import json
import logging
import re
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lit_ft.command.catalogue import config_folder
from lit_ft.command.cli import build, command, load_run
from lit_ft.command.run import resolve
from lit_ft.command.run_folders import find_run

CONFIG: dict[str, Any] = {
    "model": {"class_path": "Toy", "init_args": {"network": {"path": "here"}, "width": 5}},
    "data": {"class_path": "ToyData"},
    "trainer": {"max_steps": 12, "log_every_n_steps": 1, "accelerator": "cpu"},
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    write("toy.yaml", CONFIG)


def write(name: str, config: dict[str, Any]) -> None:
    Path(name).write_text("# a config\n" + yaml.safe_dump(config))


def lit_ft(*arguments: str) -> int:
    return command([*arguments, "--import", "toy_package"])


def the_run(name: str = "toy") -> Path:
    return find_run(Path("runs"), name, finished=False)


@pytest.mark.draws
def test_fit_and_test_leave_one_report() -> None:
    assert lit_ft("fit", "-c", "toy.yaml", "--trainer.max_steps=10") == 0
    run = the_run()
    assert {path.name for path in run.iterdir()} == {
        "config.yaml",
        "metrics.csv",
        "checkpoints",
        "report.json",
        "report.html",
        "plots",
    }
    report = json.loads((run / "report.json").read_text())
    assert report["status"] == "finished"
    assert report["steps"] == 10
    assert report["command"].startswith("lit-ft fit -c toy.yaml")
    assert {"train/loss", "val/loss"} <= set(report["metrics"])
    assert lit_ft("test", "-c", "toy.yaml", "--ckpt_path", "last") == 0
    assert not Path("lightning_logs").exists()
    both = json.loads((run / "report.json").read_text())
    assert both["metrics"]["train/loss"] == report["metrics"]["train/loss"]
    assert both["metrics"]["test/loss"] == pytest.approx(both["metrics"]["val/loss"])
    page = (run / "report.html").read_text()
    assert "<th>validation</th><th>test</th>" in page
    assert "<svg" in page
    assert not re.search(r"""(src|href)=["']http|@import|<script""", page), "self-contained"


@pytest.mark.draws
def test_a_figure_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    drawn: list[str] = []
    draw = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda figure, *a, **k: (drawn.append(k.get("format", "png")), draw(figure, *a, **k))
    )
    falling = "--model.schedule={class_path: lit_ft.core.schedules.Cosine}"
    assert lit_ft("fit", "-c", "toy.yaml", "--trainer.val_check_interval=2", falling) == 0
    run = the_run()
    files = {path.name for path in (run / "plots").iterdir()}
    assert {"loss.svg", "loss.png", "learning_rate.svg", "learning_rate.png"} <= files
    assert sorted(drawn) == sorted(file.rpartition(".")[2] for file in files)
    drawings = (run / "report.html").read_text().count("<svg")
    drawn.clear()
    assert lit_ft("test", "-c", "toy.yaml", "--ckpt_path", "last", falling) == 0
    assert not drawn, "the curves of the fit stand"
    assert (run / "report.html").read_text().count("<svg") == drawings == len(files) / 2
    (run / "plots" / "loss.svg").unlink()
    assert lit_ft("test", "-c", "toy.yaml", "--ckpt_path", "last", falling) == 0
    assert (run / "report.html").read_text().count("<svg") == drawings - 1


def test_a_saved_config_runs_again_and_gives_the_same_weights() -> None:
    assert lit_ft("fit", "-c", "toy.yaml") == 0
    first = the_run()
    assert lit_ft("fit", "-c", str(first / "config.yaml"), "--name", "again") == 0
    weights = [
        torch.load(run / "checkpoints/step=00000012.ckpt", weights_only=True) for run in (first, the_run("again"))
    ]
    for key, value in weights[0]["state_dict"].items():
        assert torch.equal(value, weights[1]["state_dict"][key])


def test_later_files_and_the_command_line_win() -> None:
    write("over.yaml", {"trainer": {"max_steps": 3, "callbacks+": [{"class_path": "LearningRateMonitor"}]}})
    assert lit_ft("fit", "-c", "toy.yaml", "-c", "over.yaml", "--model.width=2") == 0
    config = yaml.safe_load((the_run("over") / "config.yaml").read_text())
    assert config["trainer"]["max_steps"] == 3
    assert config["model"]["init_args"]["width"] == 2
    assert len(config["trainer"]["callbacks"]) == 1


def test_another_optimizer_begins_with_its_own_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    """Arguments of a default class would be taken over: SGD with the weight decay of AdamW."""
    digits = ["--model=ImageClassifier", '--model.network={"config": {"model_type": "mlp"}}', "--data=Digits"]
    plain = resolve([*digits, "--model.optimizer=SGD", "--model.optimizer.lr=0.1"])["model"]["init_args"]["optimizer"]
    assert plain["init_args"]["weight_decay"] == 0.0
    assert lit_ft("fit", *digits, "--model.optimizer.lr=0.1") == 2
    assert "model.init_args.optimizer: given lr alone; allowed: with a class_path" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:the configuration differs:UserWarning")
def test_the_file_wins_over_the_checkpoint_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert lit_ft("fit", "-c", "toy.yaml") == 0
    last = str(the_run() / "checkpoints/step=00000012.ckpt")
    rate = '--model.optimizer={"class_path": "SGD", "init_args": {"lr": 0.5}}'
    with pytest.warns(UserWarning, match="differs from the checkpoint") as warnings:
        assert lit_ft("test", "-c", "toy.yaml", "--ckpt_path", last, rate) == 0
    text = "".join(str(w.message) for w in warnings)
    assert "model.init_args.optimizer.class_path: 'torch.optim.SGD' (checkpoint: 'torch.optim.AdamW')" in text
    assert "width" not in text
    # the width of the file is built, not the checkpoint's
    assert lit_ft("test", "-c", "toy.yaml", "--ckpt_path", last, "--model.width=7") == 2
    assert "the checkpoint does not fit the network: size mismatch for" in capsys.readouterr().err


def test_resume_in_place() -> None:
    assert lit_ft("fit", "-c", "toy.yaml", "--name", "whole") == 0
    assert lit_ft("fit", "-c", "toy.yaml", "--name", "parts", "--trainer.max_steps=7") == 0
    assert lit_ft("fit", "-c", "toy.yaml", "--name", "parts", "--ckpt_path", "last") == 0
    assert len(list(Path("runs/parts").iterdir())) == 1
    whole, parts = the_run("whole"), the_run("parts")
    values = [
        [line for line in (run / "metrics.csv").read_text().splitlines() if "," in line] for run in (whole, parts)
    ]
    assert [v for v in values[1] if v in values[0]] == values[0], "all rows of the whole run"
    weights = [torch.load(run / "checkpoints/step=00000012.ckpt", weights_only=True) for run in (whole, parts)]
    assert all(torch.equal(v, weights[1]["state_dict"][k]) for k, v in weights[0]["state_dict"].items())


@pytest.mark.filterwarnings("ignore:RunCheckpoint. checkpoints of this run hold toy_package.Scaler")
def test_a_run_with_classes_in_its_file_goes_on_once_they_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    import toy_package

    write("own.yaml", {**CONFIG, "model": {"class_path": "toy_package.Holding"}})
    assert lit_ft("fit", "-c", "own.yaml", "--trainer.max_steps=5") == 0
    for stage in ("fit", "test"):
        assert lit_ft(stage, "-c", "own.yaml", "--ckpt_path", "last") == 2
        (line,) = (line for line in capsys.readouterr().err.splitlines() if "Scaler" in line)
        assert re.search("--ckpt_path.*toy_package.Scaler.*allowed: .*add_safe_globals.*weights_only=False", line)
    with torch.serialization.safe_globals([toy_package.Scaler]):
        assert lit_ft("fit", "-c", "own.yaml", "--ckpt_path", "last") == 0
        assert lit_ft("test", "-c", "own.yaml", "--ckpt_path", "last") == 0
    assert (the_run("own") / "checkpoints/step=00000012.ckpt").exists()


def test_last_without_a_run_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert lit_ft("test", "-c", "toy.yaml", "--ckpt_path", "last") == 2
    assert "there is none" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_starts_in_the_same_second_do_not_share_a_folder() -> None:
    for _ in range(2):
        assert lit_ft("fit", "-c", "toy.yaml", "--trainer.max_steps=1") == 0
    assert len(list(Path("runs/toy").iterdir())) == 2


def test_start_from_the_weights_of_another_run() -> None:
    assert lit_ft("fit", "-c", "toy.yaml") == 0
    first = the_run()
    assert lit_ft("fit", "-c", "toy.yaml", "--from", str(first), "--name", "second", "--model.optimizer=SGD",
                  "--model.optimizer.lr=0.0", "--trainer.max_steps=1") == 0  # fmt: skip
    old = torch.load(first / "checkpoints/step=00000012.ckpt", weights_only=True)["state_dict"]
    new = torch.load(the_run("second") / "checkpoints/step=00000001.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(old[key], new[key]) for key in old)


def test_predictions_are_written() -> None:
    assert lit_ft("fit", "-c", "toy.yaml") == 0
    assert lit_ft("predict", "-c", "toy.yaml", "--ckpt_path", "last") == 0
    assert len((the_run() / "predictions.jsonl").read_text().splitlines()) == 40


def test_notebook_objects() -> None:
    import toy_package

    built = build(["-c", "toy.yaml"])
    assert isinstance(built.model, toy_package.Toy)
    assert isinstance(built.datamodule, toy_package.ToyData)
    assert lit_ft("fit", "-c", "toy.yaml") == 0
    saved = torch.load(the_run() / "checkpoints/step=00000012.ckpt", weights_only=True)["state_dict"]
    loaded = load_run(the_run())
    assert all(torch.equal(value, saved[key]) for key, value in loaded.model.state_dict().items() if key in saved)
    assert len(saved) == 4


WRONG = {
    "unknown key": (["--trainer.max_stepss=3"], ["trainer.max_stepss", "did you mean 'max_steps'"]),
    "unknown model key": (["--model.widht=3"], ["model.init_args.widht", "did you mean 'width'"]),
    "wrong type": (["--model.width=x"], ["model.init_args.width", "'x'", "int"]),
    "unknown class": (["--model=Toyy"], ["'Toyy'", "did you mean 'Toy'"]),
    "unknown network key": (["--model.network.pth=3"], ["model.init_args.network.pth", "did you mean 'path'"]),
    "unknown callback": (["--trainer.callbacks+=LearningRateMonitr"], ["did you mean 'LearningRateMonitor'"]),
    "missing file": (["-c", "absent.yaml"], ["absent.yaml"]),
    "out of range": (["-c", "range.yaml"], ["model.init_args.width: given 0", "at least 1"]),
    "unknown section": (["-c", "section.yaml"], ["trainr", "did you mean 'trainer'"]),
    "another kind of batch": (["--data=OtherData"], ["OtherData", "numbers", "images"]),
    "checkpoint": (["--ckpt_path", "nowhere.ckpt"], ["nowhere.ckpt"]),
    "a name that leads out": (["--name", "../up"], ["--name: given '../up'", "the name of a folder in runs/"]),
    "a run that says nothing": (["--run", "nonsense"], ["--run: given 'nonsense'", "together with --ckpt_path last"]),
    "not a checkpoint": (["--ckpt_path", "toy.yaml"], ["--ckpt_path: given 'toy.yaml'; allowed: a checkpoint"]),
    "a folder as file": (["-c", "."], [".: is a directory"]),
    "empty file": (["-c", "empty.yaml"], ["--config: given an empty file", "model, data and trainer"]),
    "not text": (["-c", "binary.yaml"], ["not text in UTF-8"]),
    "own module": (["--import", "absent_module"], ["--import", "absent_module"]),
    "number of an optimizer": (
        ["--model.optimizer=AdamW", "--model.optimizer.lr=fast"],
        ["model.init_args.optimizer.init_args.lr: given 'fast'; allowed: float"],
    ),
    "either of several types": (["--trainer.gradient_clip_val=x"], ["trainer.gradient_clip_val", "int, float, null"]),
    "what a class needs": (["--trainer.callbacks+=GradientMask"], ["trainer.callbacks: GradientMask needs selection"]),
    "a mapping": (["--trainer=3"], ["trainer: given '3'; allowed: a mapping"]),
    "no batches at all": (
        ["--trainer.accumulate_grad_batches=0"],
        ["lit-ft: trainer.accumulate_grad_batches: given 0; allowed: above 0"],
    ),
    "validation never": (["--trainer.val_check_interval=0"], ["trainer.val_check_interval: given 0"]),
    "validation after no epoch": (["--trainer.check_val_every_n_epoch=0"], ["trainer.check_val_every_n_epoch: given"]),
    "refused by the trainer": (
        ["--trainer.strategy=none_such"],
        ["trainer.strategy: given 'none_such'; allowed: auto, ddp"],
    ),
    "refused by the seed": (["--seed_everything=-1"], ["seed_everything: -1"]),
    "help of no class": (["--model.help", "Toyy"], ["--model.help: given class 'Toyy'"]),
}


@pytest.mark.parametrize("case", list(WRONG))
def test_mistakes_are_one_clear_line(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = {**CONFIG["model"], "init_args": {**CONFIG["model"]["init_args"], "width": 0}}
    write("range.yaml", {"model": wrong})
    write("section.yaml", {"trainr": {"max_steps": 1}})
    Path("empty.yaml").touch()
    Path("binary.yaml").write_bytes(b"\xff\xfe\x00")
    arguments, expected = WRONG[case]
    assert lit_ft("fit", "-c", "toy.yaml", *arguments) == 2
    error = capsys.readouterr().err
    for part in expected:
        assert part in error
    assert "Traceback" not in error
    assert error.count("\n") == 1 + error.count("Seed set to"), "one line"
    assert not Path("runs").exists(), "nothing half-written"


def test_a_mistake_in_a_function_is_placed_in_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    write("images.yaml", {**CONFIG, "data": {"class_path": "ImageFolder", "init_args": {"path": "absent"}}})
    assert lit_ft("fit", "-c", "images.yaml", "--model=ImageClassifier", "--model.network.path=absent") == 2
    assert "data.init_args.path: given 'absent'; allowed: a path that exists" in capsys.readouterr().err


def test_a_mistake_that_a_class_of_no_config_finds_is_placed_in_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    names = {"class_path": "Names", "init_args": {"patterns": ["nowhere.*"]}}
    mask = {"class_path": "GradientMask", "init_args": {"selection": names}}
    write("mask.yaml", {**CONFIG, "trainer": {**CONFIG["trainer"], "callbacks": [mask]}})
    assert lit_ft("fit", "-c", "mask.yaml") == 2
    place = "trainer.callbacks[0].init_args.selection.init_args.patterns: given 'nowhere.*'"
    assert place in capsys.readouterr().err


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(Exception, match="max_stepss"):
        lit_ft("fit", "-c", "toy.yaml", "--trainer.max_stepss=3", "--debug")


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["fitt"]) == 2
    assert "did you mean 'fit'" in capsys.readouterr().err


@pytest.mark.draws
def test_report_over_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert lit_ft("fit", "-c", "toy.yaml") == 0
    assert lit_ft("fit", "-c", "toy.yaml", "--name", "other", "--seed_everything=3") == 0
    capsys.readouterr()
    assert command(["report", "runs", "--html", "runs.html"]) == 0
    table = capsys.readouterr().out
    assert "val/loss" in table
    assert table.count("toy/") == 1
    assert 'aria-label="train/loss"' in Path("runs.html").read_text()
    assert command(["report", "runs", "--keys", "val/los"]) == 2
    assert "val/loss" in capsys.readouterr().err


def test_a_run_that_goes_on_keeps_its_name() -> None:
    assert lit_ft("fit", "-c", "toy.yaml") == 0
    run, steps = the_run(), 12
    for given, name in (([], "toy"), (["-c", str(run / "config.yaml")], "toy"), (["--name", "other"], "other")):
        steps += 2
        assert lit_ft("fit", *given, "--run", str(run), "--ckpt_path=last", f"--trainer.max_steps={steps}") == 0
        report = json.loads((run / "report.json").read_text())
        assert (report["name"], report["steps"]) == (name, steps)


class Clock(datetime):
    """An hour later each time that it is read."""

    read = 0

    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        cls.read += 1
        return datetime(2030, 1, 1, cls.read)


def test_a_report_says_when_the_run_began(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_ft.running.run_report.datetime", Clock)
    for steps in (12, 16):  # the second one goes on
        arguments = ["--ckpt_path=last"] if steps == 16 else []
        assert lit_ft("fit", "-c", "toy.yaml", "--run_dir", "here", f"--trainer.max_steps={steps}", *arguments) == 0
        report = json.loads(Path("here/report.json").read_text())
        assert report["steps"] == steps
        assert report["started"].startswith("2030-01-01T01")


def test_halves_of_options(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in (
        (["test", "--import", "toy_package", "--run"], "--run: given 'nothing'"),
        (["test", "--import", "toy_package", "-c", "toy.yaml", "--ckpt_path", "."], "last, best, none or a file"),
        (["test", "--import", "toy_package", "-c", "toy.yaml", "--from", "."], "--from: given '.'; allowed: what fit"),
        (["fit"], "model"),
    ):
        assert command(arguments) == 2
        error = capsys.readouterr().err
        assert said in error, error
        assert "Traceback" not in error


def test_a_report_over_two_folders_tells_runs_of_one_name_apart(capsys: pytest.CaptureFixture[str]) -> None:
    for place in ("one", "two"):
        assert lit_ft("fit", "-c", "toy.yaml", "--run_dir", f"{place}/toy/first") == 0
    capsys.readouterr()
    assert command(["report", "one", "two", "one/toy/first", "--html", "runs.html"]) == 0
    table = capsys.readouterr().out
    assert table.count("one/toy/first") == 1
    assert table.count("two/toy/first") == 1
    assert command(["report", "one", "--html", "."]) == 2
    assert "--html: given '.'; allowed: a file" in capsys.readouterr().err


def test_show_batch_without_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert lit_ft("show-batch", "-c", "toy.yaml") == 0
    shown = capsys.readouterr().out
    assert "batch[0]: float32 [4, 4]" in shown
    assert lit_ft("fit", "-c", "toy.yaml", "--trainer.max_steps=1") == 0
    capsys.readouterr()
    assert lit_ft("show-batch", "--run", str(the_run())) == 0
    assert capsys.readouterr().out == shown
    assert lit_ft("show-batch", "--run", "nowhere") == 2
    assert "--run: given 'nowhere/config.yaml'" in capsys.readouterr().err


@pytest.mark.parametrize("tool", ["show-batch", "estimate", "export", "overlap"])
def test_tools_leave_out_what_every_start_says(
    tool: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert lit_ft("fit", "-c", "toy.yaml", "--trainer.max_steps=1") == 0
    arguments = {"export": [str(the_run()), "--to", "out"], "overlap": [str(the_run() / "config.yaml"), "toy.yaml"]}
    for name in ("lightning.pytorch", "lightning.fabric"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
        logging.getLogger(name).setLevel(logging.INFO)
    caplog.clear()
    with suppress(Exception):  # neither is a selection
        lit_ft(tool, *arguments.get(tool, ["-c", "toy.yaml"]))
    assert caplog.messages == []


def test_help_imports_nothing_heavy(capsys: pytest.CaptureFixture[str]) -> None:
    before = set(sys.modules)
    assert command(["--help"]) == 0
    assert "lit-ft fit" in capsys.readouterr().out
    assert not {"torch", "lightning"} & (set(sys.modules) - before)


@pytest.mark.parametrize(
    ("old", "now"),
    [
        ("lit_ft.methods.images.image_classifier.ImageClassifier", "lit_ft.methods.ImageClassifier, its name now"),
        ("lit_ft.core.nothing.Nothing", "a class that lit-ft methods lists"),
    ],
)
def test_a_class_that_moved_is_refused_with_its_new_name(
    old: str, now: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "old.yaml"
    config.write_text(f"model: {{class_path: {old}}}\ndata: {{class_path: Digits}}\n")
    assert command(["fit", "-c", str(config)]) == 2
    assert capsys.readouterr().err == f"lit-ft: model: given class {old!r}; allowed: {now}\n"


def test_a_metric_without_a_name_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    config = str(config_folder() / "vision" / "digits.yaml")
    assert command(["fit", "-c", config, "--model.init_args.metrics=accuracy"]) == 2
    allowed = "a mapping of names, each to a Metric with its class_path"
    assert capsys.readouterr().err == f"lit-ft: model.init_args.metrics: given 'accuracy'; allowed: {allowed}\n"
