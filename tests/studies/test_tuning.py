"""Tuning inside a study: one grid for every arm, seeds and rows of its own, and a choice that anybody would repeat."""

import json
from pathlib import Path
from typing import Any

import pytest

from lit_ft.command.cli import command
from lit_ft.core.errors import ConfigError
from lit_ft.core.yaml_text import write_yaml
from lit_ft.studies.grid import Grid
from lit_ft.studies.pace import Pace, forecast, timed
from lit_ft.studies.plan import Planned
from lit_ft.studies.runner import Job, make_run
from tests.studies.ended import Ended, launcher

LR = "model.optimizer.lr"
NAN = float("nan")


def grid(**said: Any) -> Grid:
    return Grid.of({LR: [0.1, 1.0, 10.0], "by": "val/loss", **said}, ["sam", "plain"], [0, 1])


CHOICES: dict[str, tuple[Grid, list[list[float]], float, bool]] = {
    "the lowest loss": (grid(), [[3.0, 3.0], [1.0, 2.0], [4.0, 0.5]], 1.0, False),
    "the highest accuracy": (grid(by="val/accuracy"), [[0.3], [0.5], [0.6]], 10.0, True),
    "what is said": (grid(by="val/accuracy", mode="min"), [[0.3], [0.5], [0.6]], 0.1, True),
    "the first of equals": (grid(), [[2.0], [1.0], [1.0]], 1.0, False),
    "one diverged seed is the worst": (grid(), [[3.0, 3.0], [0.1, NAN], [4.0, 4.0]], 0.1, True),
    "infinite is diverged": (grid(by="val/accuracy"), [[0.3], [0.4], [float("inf")]], 1.0, False),
}


@pytest.mark.parametrize("case", list(CHOICES))
def test_the_choice(case: str) -> None:
    chosen, found, lr, border = CHOICES[case]
    told = chosen.choose("sam", chosen.points("sam"), found)
    assert told["chosen"] == {LR: lr}
    assert told["border"] == ([LR] if border else [])
    assert json.loads(json.dumps(told)) == told, "plain data, no NaN"
    assert "NaN" not in json.dumps(told)


def test_all_diverged_is_no_choice() -> None:
    with pytest.raises(ConfigError, match="at which arm sam does not diverge"):
        grid().choose("sam", grid().points("sam"), [[NAN]] * 3)


def test_every_arm_has_the_same_grid_but_what_it_keeps() -> None:
    rho = "trainer.callbacks.SAM.rho"
    both = grid(**{rho: [0.1, 0.2], "fixed": {"plain": ["trainer.callbacks.SAM.init_args.rho"]}})
    assert both.points("plain") == grid().points("plain")
    assert both.points("sam")[:3] == [{LR: 0.1, rho: 0.1}, {LR: 0.1, rho: 0.2}, {LR: 1.0, rho: 0.1}]
    assert grid(fixed={"plain": [LR]}).points("plain") == []
    names = both.choose("sam", both.points("sam"), [[1.0], [0.0], *[[2.0]] * 4])["border"]
    assert names == [LR, rho], "the end of either"
    assert grid(**{LR: ["sgd", "adam"]}).choose("sam", [{LR: "sgd"}, {LR: "adam"}], [[0.0], [1.0]])["border"] == []


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no key": ({LR: None}, "KEY: [values]"),
    "one value": ({LR: [0.1]}, "two different values"),
    "equal values": ({LR: [0.1, 0.1]}, "two different values"),
    "no list": ({LR: 0.1}, "two different values"),
    "a misspelt option": ({"mod": "min"}, "did you mean 'mode'"),
    "test rows": ({"by": "test/accuracy"}, "tune.by: given 'test/accuracy'; allowed: a value of validation rows"),
    "training rows": ({"by": {"key": "train/loss", "take": "late(0.2)"}}, "validation rows"),
    "no value": ({"by": None}, "tune.by"),
    "a wrong take": ({"by": {"key": "val/loss", "take": "lst"}}, "tune.by.take"),
    "no direction": ({"by": "val/score"}, "tune.mode: given None; allowed: min or max"),
    "two directions": ({"by": "val/loss_accuracy"}, "min or max"),
    "a wrong direction": ({"mode": "low"}, "tune.mode: given 'low'"),
    "a seed of the verdict": ({"seeds": [7, 1]}, "tune.seeds: given 1; allowed: seeds that the verdict does not have"),
    "seeds twice": ({"seeds": [7, 7]}, "different whole numbers"),
    "a truth for a seed": ({"seeds": [True]}, "different whole numbers"),
    "an unknown arm": ({"fixed": {"plan": [LR]}}, "did you mean 'plain'"),
    "an unknown key": ({"fixed": {"plain": ["model.optimizer.momentum"]}}, "tune.fixed.plain"),
    "no keys": ({"fixed": ["plain"]}, "{ARM: [keys that it keeps]}"),
}


@pytest.mark.parametrize("case", list(WRONG))
def test_mistakes_are_named(case: str) -> None:
    said, message = WRONG[case]
    tune = {LR: [0.1, 1.0], "by": "val/loss", **said}
    tune = {key: value for key, value in tune.items() if value is not None}
    with pytest.raises(ConfigError) as error:
        Grid.of(tune, ["sam", "plain"], [0, 1])
    assert message in str(error.value)


def test_how_long_it_takes(tmp_path: Path) -> None:
    """Twenty steps in five seconds, then a validation and the test; steps of an epoch where one has ended."""
    pace = Pace.of(12.0, {"steps": 20, "epochs": 0, "wall_seconds": 6.0})
    assert pace == Pace(0.25, 7.0, None)
    run = Planned("a", 0, "", ["-c", "x"], tmp_path / "a" / "run", "key", {"trainer": {"max_steps": 100}})
    assert "--trainer.max_time=00:00:00:05" in timed(run, tmp_path).args
    assert forecast([run] * 4, {"": pace}, jobs=2) == "4 of 4 runs are to be made, about 1 min 4 s by what probes took"
    run.config["trainer"] = {"max_steps": -1, "max_epochs": 3}
    assert "not known before the first" in forecast([run], {"": pace}, 1)
    assert pace.seconds({"max_steps": 4, "max_epochs": -1}) == 8.0
    assert Pace(0.25, 7.0, 40.0).seconds(run.config["trainer"]) == 37.0
    assert Pace.of(3.0, {"steps": 0}) is None
    assert Pace.of(100.0, {"steps": 2, "epochs": 0, "wall_seconds": 90.0}) == Pace(45.0, 10.0, None), "long steps"


BASE: dict[str, Any] = {
    "model": {
        "class_path": "ImageClassifier",
        "init_args": {
            "network": {"config": {"model_type": "mlp", "width": 8, "depth": 1}},
            "optimizer": {"class_path": "SGD", "init_args": {"lr": 0.1}},
        },
    },
    "data": {"class_path": "Digits", "init_args": {"flat": True, "max_rows": 256}},
    "trainer": {"max_epochs": 1, "accelerator": "cpu"},
}


def study(*arguments: str, **changes: Any) -> int:
    content = {
        "claims": [{"says": "a claim", "expect": ["plain.accuracy - still.accuracy > 0"]}],
        "base": "base.yaml",
        "arms": {"plain": {}, "still": {"model": {"init_args": {"optimizer": {"init_args": {"lr": 0.0}}}}}},
        "seeds": [0],
        "measure": {"accuracy": "test/accuracy"},
        "tune": {LR: [0.001, 1e30, 0.1], "by": "val/accuracy", "seeds": [5], "fixed": {"still": [LR]}},
    }
    Path("base.yaml").write_text(write_yaml(BASE))
    Path("claim.yaml").write_text(write_yaml({**content, **changes}))
    return command(["study", "claim.yaml", *arguments])


class Here(Ended):
    """A run in this process, as what is looked at is not that it has one of its own."""

    def __init__(self, job: Job, threads: int) -> None:
        Path(job.folder).mkdir(parents=True, exist_ok=True)
        make_run(job)


here = launcher(Here)


def test_a_study_tunes_first_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lit_ft.studies.conduct.launcher", here)
    monkeypatch.setattr("lit_ft.studies.command.warm_up", lambda modules: None)
    assert study("--dry-run") == 0
    shown = capsys.readouterr().out
    assert f"tuned by val/accuracy (max) with the seeds [5]: {LR} [0.001, 1e+30, 0.1]" in shown
    assert "still keeps its model.optimizer.lr" in shown
    assert "2 runs, after 3 that tune" in shown
    assert not list(tmp_path.glob("runs/**/report.json"))

    assert study("--record") == 0
    printed = capsys.readouterr().out
    assert "5 of 5 runs are to be made, about" in printed
    assert "tuned plain: model.optimizer.lr 0.1 (val/accuracy" in printed
    assert "model.optimizer.lr at the border of its grid" not in printed, "1e30 is beyond it"
    root = Path("runs/studies/claim")
    tried = sorted(root.glob("tuning/plain/*/report.json"))
    assert sorted(json.loads(file.read_text())["status"] for file in tried) == ["diverged", "finished", "finished"]
    assert not any(key.startswith("test/") for file in tried for key in json.loads(file.read_text())["metrics"])
    record = json.loads(Path("results/claim.json").read_text())
    found = record["tuned"]["arms"]["plain"]
    assert found["chosen"] == {LR: 0.1}
    assert found["scores"][1] is None
    assert record["tuned"]["grid"] == {LR: [0.001, 1e30, 0.1]}
    assert list(record["tuned"]["arms"]) == ["plain"]
    (run,) = root.glob("plain/*/config.yaml")
    assert "lr: 0.1" in run.read_text()
    assert "Tuned by val/accuracy" in (root / "study.html").read_text()

    (tried[0].parent / "complete").unlink()
    assert study() == 0
    printed = capsys.readouterr().out
    assert printed.count(": reused") == 4, "only what had not come to its end is made, or judged, again"
    assert "tuned plain: model.optimizer.lr 0.1" in printed


def test_a_value_that_an_arm_has_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    cases = {
        "model.optimizer.rho": "tune: arm plain: given 'model.optimizer.rho'; allowed: a value of the configuration",
        "model.optimizer.lr": "lr",
    }
    for key, message in cases.items():
        assert study("--show", tune={key: [0.1, "much"], "by": "val/loss"}) == 2
        told = capsys.readouterr().err
        assert message in told
        assert "`fixed: {ARM: [keys]}`" in told or key == LR
