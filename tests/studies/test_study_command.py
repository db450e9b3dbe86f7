"""Studies as a person runs them: real runs in processes, reuse, failures, interruption, verdict and files."""

import json
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lit_ft.command.cli import command
from lit_ft.core.errors import ConfigError
from lit_ft.running.files import write_text
from lit_ft.running.processes import start
from lit_ft.studies.measures import Measure
from lit_ft.studies.runner import threads_of
from lit_ft.studies.staleness import stale

BASE: dict[str, Any] = {
    "model": {
        "class_path": "ImageClassifier",
        "init_args": {
            "network": {"config": {"model_type": "mlp", "width": 8, "depth": 1}},
            "optimizer": {"class_path": "SGD", "init_args": {"lr": 0.1}},
        },
    },
    "data": {"class_path": "Digits", "init_args": {"flat": True, "max_rows": 256}},
    "trainer": {"max_steps": 8, "log_every_n_steps": 1, "accelerator": "cpu"},
}
STUDY: dict[str, Any] = {
    "claims": [
        {
            "says": "a learning rate of zero learns nothing",
            "expect": ["moving.loss < 0.95 * still.loss", "still.loss - moving.first in [-0.5, 0.5]"],
        }
    ],
    "base": ["base.yaml"],
    "arms": {"still": {"model": {"init_args": {"optimizer": {"init_args": {"lr": 0.0}}}}}, "moving": {}},
    "seeds": [0, 1],
    "measure": {"loss": {"key": "train/loss", "take": "late(0.3)"}, "first": {"key": "train/loss", "take": "first"},
                "accuracy": "test/accuracy"},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write("base.yaml", BASE)


def write(name: str, content: dict[str, Any]) -> str:
    write_text(Path(name), yaml.safe_dump(content, sort_keys=False))
    return name


def study(*arguments: str, **changes: Any) -> int:
    if "expect" in changes:  # of the one claim
        changes["claims"] = [{"says": "a claim", "expect": changes.pop("expect")}]
    return command(["study", write("claim.yaml", {**STUDY, **changes}), *arguments])


def runs(arm: str) -> list[Path]:
    return sorted(path for path in Path("runs/studies/claim", arm).iterdir() if (path / "complete").exists())


@pytest.mark.draws
def test_a_study_is_made_judged_and_reused(capsys: pytest.CaptureFixture[str]) -> None:
    assert study("--jobs", "2", "--record") == 0
    printed = capsys.readouterr().out
    assert "4 runs; 2 seeds decide nothing, 5 do" in printed
    assert "not decided: a learning rate of zero learns nothing" in printed
    assert printed.count(": done") == 4
    assert len(runs("still")) == len(runs("moving")) == 2

    report = json.loads((runs("moving")[0] / "report.json").read_text())
    assert report["steps"] == 8
    assert "test/accuracy" in report["metrics"]
    assert "-c base.yaml" in report["command"], "a run can be repeated by hand"

    result = json.loads(Path("results/claim.json").read_text())
    assert result["values"]["moving"]["accuracy"][0] == pytest.approx(report["metrics"]["test/accuracy"])
    assert result["seeds"] == [0, 1]
    assert result["verdict"] == "not decided"
    (claim,) = result["claims"]
    assert claim["judged"][0]["mean"] < 0, "moving.loss - 0.95 * still.loss"
    page = Path("runs/studies/claim/study.html").read_text()
    assert "<svg" in page
    assert not re.search(r"""(src|href)=["']http|@import|<script""", page), "self-contained"

    before = (runs("moving")[0] / "report.json").stat().st_mtime_ns
    assert study("--strict", expect=["moving.loss > still.loss"]) == 1, "not decided; status 1 only when strict"
    printed = capsys.readouterr().out
    assert printed.count(": reused") == 4
    assert "not decided: a claim" in printed
    assert (runs("moving")[0] / "report.json").stat().st_mtime_ns == before

    assert (
        study(seeds=[0, 1, 2], measure={**STUDY["measure"], "steps": "steps"}, expect=["moving.steps in [8, 8]"]) == 0
    )
    assert capsys.readouterr().out.count(": done") == 2, "only the new seed is made"


def test_a_failed_run_does_not_stop_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    broken = {"data": {"init_args": {"max_rows": 0}}}
    for arms in ({"moving": {}, "broken": broken}, {"broken": broken, "moving": {}}):  # whichever is looked at first
        shutil.rmtree("runs", ignore_errors=True)
        assert study("--seeds", "1", arms=arms, expect=["moving.loss < broken.loss"]) == 1
    printed = capsys.readouterr().out
    assert "failed: broken seed 0" in printed
    assert "\ndata.init_args.max_rows: given 0; allowed: a whole number, 1 or more" in printed, "as fit says it"
    assert "no verdict: 1 of 2 runs failed" in printed
    assert len(runs("moving")) == 1


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "two arms that are the base": ({"arms": {"a": {}, "b": None}}, "arms.b"),
    "equal arms": (
        {"arms": {"a": {"trainer": {"max_steps": 8}}, "b": {}}, "expect": []},
        "arms.b: given {}; allowed: overrides that make it differ from arm a",
    ),
    "seeds twice": ({"seeds": [0, 1, 0]}, "seeds: given [0, 1, 0]"),
    "unknown key": ({"giv": []}, "did you mean 'given'"),
    "a key of earlier versions": ({"claim": "c"}, "claims: [{says: ..., expect: [...], main: true}]"),
    "two main claims": (
        {"claims": [{"says": "a", "main": True}, {"says": "b", "main": True}]},
        "claims: given '2 with main: true'; allowed: exactly one",
    ),
    "no main claim": ({"claims": [{"says": "a"}, {"says": "b"}]}, "0 with main: true"),
    "unknown key of a claim": ({"claims": [{"sais": "a"}]}, "did you mean 'says'"),
    "a precondition of no arm": ({"given": ["movin.loss > 1"]}, "did you mean 'moving'"),
    "what no interval decides": ({"expect": ["sd(moving.loss) < 1"]}, "no interval over seeds is known for sd"),
    "unknown arm": ({"expect": ["movin.loss < 1"]}, "did you mean 'moving'"),
    "unknown measure": (
        {"measure": {"loss": "train/lss"}, "expect": ["moving.loss < 9"], "arms": {"moving": {}}},
        "did you mean 'train/loss'",
    ),
    "unknown test measure": (
        {"measure": {"x": "test/acuracy"}, "expect": [], "arms": {"moving": {}}},
        "did you mean 'test/accuracy'",
    ),
    "unknown plot": (
        {"plot": "train/lss", "arms": {"moving": {}}, "measure": {"x": "train/loss"}, "expect": []},
        "did you mean 'train/loss'",
    ),
    "wrong take": ({"measure": {"loss": {"key": "train/loss", "take": "lat(0.2)"}}}, "late(FRACTION)"),
    "place of a measure": (
        {"measure": {"loss": "train/lss"}, "expect": [], "arms": {"moving": {}}},
        "lit-ft: measure.loss: given 'train/lss'",
    ),
    "place of a take": (
        {"measure": {"loss": {"key": "train/loss", "take": "lst"}}},
        "lit-ft: measure.loss.take: given",
    ),
    "no base": ({"base": []}, "lit-ft: base: given []; allowed: at least one config file"),
    "no measure": ({"measure": {}, "expect": []}, "lit-ft: measure: given {}; allowed: at least one measure"),
    "missing file": ({"base": ["bse.yaml"]}, "bse.yaml"),
    "wrong override": ({"arms": {"a": {"trainer": {"max_stps": 3}}}, "expect": []}, "did you mean 'max_steps'"),
    "no arms": ({"arms": {}}, "at least one arm"),
    "a seed alone": ({"seeds": 0}, "seeds: given 0; allowed: list[int]"),
    "no seed": ({"seeds": [-1]}, "whole numbers from 0"),
    "a truth for a number": ({"seeds": [True]}, "seeds: given [True]"),
    "a list of measures": ({"measure": ["train/loss"]}, "measure: given ['train/loss']; allowed: dict"),
    "a measure without a key": ({"measure": {"loss": {"take": "last"}}}, "a key that runs log"),
    "a measure that no expression can name": ({"measure": {"a-b": "train/loss"}}, "measure: given 'a-b'"),
    "an arm without a name": ({"arms": ["a"]}, "arms: given ['a']; allowed: dict"),
    "the seed of an arm": ({"arms": {"a": {"seed_everything": 3}}}, "arms.a: given 'seed_everything'"),
    "a seed for what has none": (
        {"seeded": ["data.sed"]},
        "seeded: given 'data.sed'; allowed: a value of a configuration (did you",
    ),
    "a seed of an arm that is drawn": (
        {"seeded": ["data.seed"], "arms": {"moving": {"data": {"init_args": {"seed": 3}}}}, "expect": []},
        "arms.moving.data.seed: given 3; allowed: no value",
    ),
    "no list of claims": ({"claims": {"a": 1}}, "claims: given {'a': 1}; allowed: list"),
    "no list of expectations": ({"expect": {"a": 1}}, "claims[0].expect: given {'a': 1}; allowed: list[str]"),
    "half a stage": ({"stages": [{"name": "a"}], "expect": []}, "stages[0]: given {'name': 'a'}"),
    "stages of one name": ({"stages": [{"name": "a", "config": ""}] * 2, "expect": []}, "different names"),
    "stage of an arm": (
        {"arms": {"a": {"stages": {"befor": {}}}}, "expect": []},
        "a stage before the last: there is none",
    ),
    "stage of a measure": (
        {"measure": {"loss": {"key": "train/loss", "stage": "befor"}}, "expect": []},
        "a stage: there is none",
    ),
}


@pytest.mark.parametrize("mistake", list(MISTAKES))
def test_mistakes_are_errors_before_the_first_run(mistake: str, capsys: pytest.CaptureFixture[str]) -> None:
    changes, message = MISTAKES[mistake]
    assert study(**changes) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert ": done" not in printed.out
    assert not list(Path().glob("runs/studies/claim/*/*/complete"))


def test_only_and_quick(capsys: pytest.CaptureFixture[str]) -> None:
    assert study("--quick") == 0
    assert study("--quick", measure={"loss": "train/lss"}, expect=[]) == 2, "a measure that no run reports"
    assert "learns nothing" not in capsys.readouterr().out
    assert study("--only", "moving", "--seeds", "1") == 0
    assert len(runs("moving")) == 1, "a quick run is not taken for a real one"
    assert not Path("runs/studies/claim/still").exists()
    assert study("--only", "movin") == 2
    assert study("--quick", "--record") == 2


def study_in_a_process(folder: str) -> int:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell takes from what it runs in the background
    os.chdir(folder)
    return command(["study", "claim.yaml"])


def test_a_record_is_confirmed_by_one_seed(capsys: pytest.CaptureFixture[str]) -> None:
    """Equal values make an old record fresh again; another one leaves the file as it was, and says what differs."""
    assert study("--record") == 0
    file = Path("results/claim.json")
    recorded = json.loads(file.read_text())
    old = {**recorded, "classes": {**recorded["classes"], "Digits": "of other code"}, "date": "2000-01-01"}
    assert stale(old, STUDY) == ["Digits changed"]
    file.write_text(json.dumps(old))
    assert study("--confirm", note="later words") == 0
    fresh = json.loads(file.read_text())
    assert stale(fresh, STUDY) == []
    assert fresh["confirmed"]["seed"] == 0
    assert (fresh["date"], fresh["note"]) == ("2000-01-01", "later words")
    kept = ("values", "seeds", "verdict", "claims")
    assert {key: fresh[key] for key in kept} == {key: recorded[key] for key in kept}
    fresh["values"]["moving"]["accuracy"][0] += 0.01
    file.write_text(json.dumps(fresh))
    capsys.readouterr()
    assert study("--confirm") == 2
    assert "moving.accuracy of seed 0" in capsys.readouterr().err
    assert json.loads(file.read_text()) == fresh
    assert study("--confirm", measure={"loss": "train/loss"}, expect=[]) == 2, "another measure is another study"
    assert study("--confirm", "--seeds", "0") == 2


def test_ctrl_c_leaves_everything_resumable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = {"trainer": {"max_steps": 300}, "data": {"init_args": {"batch_size": 4}}}
    changes = {"arms": {"moving": long}, "seeds": [0], "claims": [{"says": "nothing"}]}
    write("claim.yaml", {**STUDY, **changes})
    handle = start(study_in_a_process, str(tmp_path), stdout=tmp_path / "out")
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("runs/studies/claim/moving/*/metrics.csv")) and time.monotonic() < deadline:
        time.sleep(0.02)
    handle.kill(signal.SIGINT)
    assert handle.result(60) == 130
    folder = next(tmp_path.glob("runs/studies/claim/moving/*"))
    if (folder / "complete").exists():
        pytest.skip("the run was faster than the signal")
    assert json.loads((folder / "report.json").read_text())["steps"] < 300
    assert study(**changes) == 0
    resumed = json.loads((folder / "report.json").read_text())
    assert "--ckpt_path=last" in resumed["command"]
    shutil.move("runs", "first")
    assert study(**changes) == 0
    whole = next(Path().glob("runs/studies/claim/moving/*"))
    assert folder.name == whole.name
    first = Path("first/studies/claim/moving") / folder.name / "metrics.csv"
    assert first.read_text() == (whole / "metrics.csv").read_text(), "as if it had not been interrupted"


def test_no_number_comes_of_a_run_that_diverged_or_did_not_end(capsys: pytest.CaptureFixture[str]) -> None:
    """The first has come to its end; the second is finished before anything is read of it."""
    rate = {"model": {"init_args": {"optimizer": {"init_args": {"lr": 1e30}}}}}
    changes = {"arms": {"moving": {}, "diverging": rate}, "seeds": [0], "measure": {"steps": "steps"}, "expect": []}
    assert study(**changes) == 0
    assert capsys.readouterr().out.count(": done") == 2
    (folder,) = runs("moving")
    (diverged,) = runs("diverging")
    assert json.loads((diverged / "report.json").read_text())["status"] == "diverged"

    file = folder / "report.json"
    whole = json.loads(file.read_text())
    file.write_text(json.dumps({**whole, "status": "running", "steps": 0, "metrics": {}}))
    with pytest.raises(ConfigError, match="a run that came to its end"):
        Measure("steps").read(folder)
    assert study(**changes) == 0
    printed = capsys.readouterr().out
    assert (printed.count(": done"), printed.count(": reused")) == (1, 1)
    values = json.loads(Path("runs/studies/claim/study.json").read_text())["values"]
    assert values["moving"]["steps"] == [8]
    assert np.isnan(values["diverging"]["steps"]).all()
    assert json.loads(file.read_text())["metrics"] == whole["metrics"]


def test_threads_are_those_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [threads_of(jobs) for jobs in (1, 3, 20)] == [8, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert [threads_of(jobs) for jobs in (1, 4)] == [3, 2]


def test_a_seed_draws_the_data_too(capsys: pytest.CaptureFixture[str]) -> None:
    """Each seed has a split of its own: a run is that of the same seeds by hand."""
    first = {"arms": {"moving": {}}, "measure": {"first": {"key": "train/loss", "take": "first"}}, "expect": []}
    assert study(**first, seeds=[1]) == 0
    assert "each seed draws data.seed" in capsys.readouterr().out
    assert json.loads(Path("runs/studies/claim/study.json").read_text())["drawn"] == ["data.seed"]
    assert command(["fit", "-c", "base.yaml", "--seed_everything=1", "--data.seed=1", "--name=hand"]) == 0
    (run,) = runs("moving")
    assert next(Path("runs/hand").glob("*/metrics.csv")).read_text() == (run / "metrics.csv").read_text()


def test_stages_share_their_beginning(capsys: pytest.CaptureFixture[str]) -> None:
    write("empty.yaml", {"trainer": {"max_steps": 4}})
    slow, fast = ({"model": {"init_args": {"optimizer": {"init_args": {"lr": rate}}}}} for rate in (0.0, 0.5))
    changes = {
        "stages": [
            {"name": "before", "config": "empty.yaml"},
            {"name": "after", "config": "empty.yaml", "from": "before"},
        ],
        "arms": {"still": slow, "moving": fast},
        "seeds": [0],
        "measure": {"first": {"key": "train/loss", "take": "first"}},
        "expect": ["still.first - moving.first in [0, 0]"],
    }
    assert study(**changes) == 0
    assert capsys.readouterr().out.count(": done") == 3, "the first stage is made once for both arms"
    (judged,) = json.loads(Path("runs/studies/claim/study.json").read_text())["claims"][0]["judged"]
    assert judged["mean"] == 0
    report = json.loads((runs("moving")[0] / "report.json").read_text())
    assert "--from=runs/studies/claim/shared/seed0-before-" in report["command"]


def test_an_arm_changes_an_earlier_stage_and_measures_read_it(capsys: pytest.CaptureFixture[str]) -> None:
    write("empty.yaml", {"trainer": {"max_steps": 4}})
    longer = {"stages": {"before": {"trainer": {"max_steps": 6}}}}
    changes = {
        "stages": [
            {"name": "before", "config": "empty.yaml"},
            {"name": "after", "config": "empty.yaml", "from": "before"},
        ],
        "arms": {"short": {}, "long": longer},
        "seeds": [0, 1],
        "measure": {"begun": {"key": "steps", "stage": "before"}, "steps": "steps"},
        "expect": ["short.begun in [4, 4]", "long.begun in [6, 6]", "long.steps in [4, 4]"],
    }
    assert study(**changes) == 0
    assert capsys.readouterr().out.count(": done") == 8, "both stages of both arms, by two seeds"
    judged = json.loads(Path("runs/studies/claim/study.json").read_text())["claims"][0]["judged"]
    assert [one["mean"] for one in judged] == [4, 6, 4]
    shutil.rmtree("runs")
    assert study("--only", "long", **changes) == 0
    assert capsys.readouterr().out.count(": done") == 4, "the first stage of the other arm is not needed"


def test_classes_of_the_user(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "cli"))
    toy = {
        "model": {"class_path": "Toy", "init_args": {"network": {"path": "here"}}},
        "data": {"class_path": "ToyData"},
    }
    write("toy.yaml", {**toy, "trainer": {"max_steps": 5, "log_every_n_steps": 1}})
    write("wide.yaml", {"model": {"init_args": {"width": 6}}})
    assert command(["compare", "-c", "toy.yaml", "--arm", "narrow:", "--arm", "wide:wide.yaml", "--seeds", "0-1",
                    "--measure", "test/loss", "--measure", "train/loss@mean", "--import", "toy_package"]) == 0  # fmt: skip  # noqa: E501
    printed = capsys.readouterr().out
    assert "narrow" in printed
    written = yaml.safe_load(Path("runs/studies/compare.yaml").read_text())
    assert written["arms"] == {"narrow": {}, "wide": {"model": {"init_args": {"width": 6}}}}
    result = json.loads(Path("runs/studies/compare/study.json").read_text())
    assert len(result["values"]["wide"]["train_loss"]) == 2
    assert result["verdict"] == "nothing expected"


def test_compare_tells_what_it_was_given_apart(capsys: pytest.CaptureFixture[str]) -> None:
    write("hot.yaml", {"model": {"init_args": {"optimizer": {"init_args": {"lr": 0.5}}}}})
    compare = ["compare", "-c", "base.yaml", "--arm", "cold", "--no-test"]
    measures = [part for key in ("lr-SGD", "train/loss@first", "train/loss@last") for part in ("--measure", key)]
    assert command([*compare, "--arm", "hot:hot.yaml", *measures]) == 0
    values = json.loads(Path("runs/studies/compare/study.json").read_text())["values"]["hot"]
    assert set(values) == {"lr_SGD", "train_loss", "train_loss_last"}
    assert values["train_loss"] != values["train_loss_last"]
    assert command([*compare, "--arm", "cold:hot.yaml", *measures]) == 2
    assert "--arm: given 'cold:hot.yaml'" in capsys.readouterr().err
    for seeds in ("", "3-1"):
        assert command([*compare, "--arm", "hot:hot.yaml", *measures, "--seeds", seeds]) == 2
        assert f"--seeds: given {seeds!r}" in capsys.readouterr().err


@pytest.mark.skipif("ray" in sys.modules, reason="ray was imported before")
def test_a_launcher_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert study("--launcher", "slurm") == 2
    assert "allowed: local, ray" in capsys.readouterr().err


def test_what_the_arms_resolve_to(capsys: pytest.CaptureFixture[str]) -> None:
    assert study("--show") == 0
    printed = capsys.readouterr().out
    assert "model.init_args.optimizer.init_args.lr" in printed
    assert "  still: 0.0\n  moving: 0.1\n" in printed
    assert "max_steps" not in printed, "what is equal in all arms"
    assert not Path("runs").exists()
