"""Studies in blocks of seeds: what repeated looks cost, when they end, and what a record keeps for another day."""

import json
import re
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_ft.command.cli import command
from lit_ft.core.errors import ConfigError
from lit_ft.core.yaml_text import write_yaml
from lit_ft.running.files import write_text
from lit_ft.running.report import write_report
from lit_ft.studies.checkout import held
from lit_ft.studies.interval import half_width
from lit_ft.studies.runner import Job
from lit_ft.studies.staleness import study_digest
from lit_ft.studies.study import Study
from lit_ft.studies.verdict import judge_claim, level_of
from tests.studies.ended import Ended, launcher


@pytest.mark.parametrize("noise", ["normal", "three degrees of freedom"])
def test_all_looks_together_err_in_five_per_cent(noise: str) -> None:
    """Nothing is there, and a claim is judged after 5, 10, 15 and 20 seeds: at the level of one look it is decided in
    more than 10 % of studies, at that of four in less than 5 %."""
    draw, studies, looks = np.random.default_rng(0), 20_000, [5, 10, 15, 20]
    values = draw.normal(size=(studies, 20)) if noise == "normal" else draw.standard_t(3, (studies, 20))

    def decided(level: float) -> float:
        ever = np.zeros(studies, dtype=bool)
        for count in looks:
            seen = values[:, :count]
            ever |= np.abs(seen.mean(1)) > half_width(1.0, count, level) * seen.std(1, ddof=1)
        return float(ever.mean())

    assert decided(level_of(1)) > 0.1
    assert decided(level_of(1, len(looks))) < 0.05


def test_the_level_is_that_of_the_looks() -> None:
    values = {"a": {"x": np.arange(6.0)}, "b": {"x": np.zeros(6)}}
    claim = judge_claim("c", ["a.x > b.x", "a.x > 0"], [], True, values, looks=5)
    assert [round(one.level, 9) for one in claim.judged] == [0.995, 0.995]
    assert round(judge_claim("c", ["a.x > b.x"], [], True, values).judged[0].level, 9) == 0.95


def difference(arm: str, seed: int) -> float:
    return {"still": 0.0, "ahead": 1.0, "like": float((-1) ** (seed // 2))}[arm] + 0.001 * (seed % 3)


MADE: list[str] = []


class Told(Ended):
    """A run that trains nothing: what it reports is a function of its arm and its seed."""

    def __init__(self, job: Job, threads: int) -> None:
        folder = Path(job.folder)
        arm, seed = next(a.partition("=")[2] for a in job.fit if a.startswith("--name=")), int(
            next(a.partition("=")[2] for a in job.fit if a.startswith("--seed_everything=")))  # fmt: skip
        if "probe" not in folder.parts:
            MADE.append(f"{arm} {seed}")
        values = {"test/accuracy": difference(arm, seed), "val/accuracy": 0.5}
        folder.mkdir(parents=True, exist_ok=True)
        write_report(folder, {"status": "finished", "steps": 1, "wall_seconds": 1.0, "metrics": values})
        write_text(folder / "complete", "")


told = launcher(Told)


@pytest.fixture
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lit_ft.studies.conduct.launcher", told)
    monkeypatch.setattr("lit_ft.studies.command.warm_up", lambda modules: None)
    network = {"network": {"config": {"model_type": "mlp", "width": 8}}}
    base = {"model": {"class_path": "ImageClassifier", "init_args": network}, "data": {"class_path": "Digits"}}
    Path("base.yaml").write_text(write_yaml(base))
    MADE.clear()


def study(*arguments: str, arm: str = "like", seeds: int = 12, **changes: Any) -> int:
    content = {
        "claims": [{"says": "a claim", "expect": [f"{arm}.accuracy - still.accuracy > 0"]}],
        "base": "base.yaml",
        "arms": {"still": {}, arm: {"data": {"init_args": {"batch_size": 8}}}},
        "seeds": list(range(seeds)),
        "measure": {"accuracy": "test/accuracy"},
    }
    Path("claim.yaml").write_text(write_yaml({**content, **changes}))
    return command(["study", "claim.yaml", *arguments])


def result() -> dict[str, Any]:
    return json.loads(Path("runs/studies/claim/study.json").read_text())


@pytest.mark.usefixtures("_here")
def test_blocks_end_when_all_is_decided(capsys: pytest.CaptureFixture[str]) -> None:
    assert study(arm="ahead", block=5) == 0
    assert "judged with 5, 10 and 12 of them, until all is decided" in capsys.readouterr().out
    assert len(MADE) == 10, "two arms, five seeds"
    assert (result()["verdict"], result()["seeds"], result()["looks"]) == ("holds", [0, 1, 2, 3, 4], 3)
    assert "98.3 %" in result()["headline"]


@pytest.mark.usefixtures("_here")
def test_blocks_end_when_the_seeds_are_used_up() -> None:
    assert study(block=5) == 0
    assert len(MADE) == 24
    assert (result()["verdict"], result()["seeds"]) == ("not decided", list(range(12)))


@pytest.mark.usefixtures("_here")
def test_a_record_takes_further_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    """The runs are gone, as on another day; what was recorded counts as long as study, data and code are the same."""
    assert study("--record", seeds=5) == 0
    first = json.loads(Path("results/claim.json").read_text())
    shutil.rmtree("runs")
    MADE.clear()
    assert study("--record", seeds=8, note="more") == 0
    assert sorted(MADE) == [f"{arm} {seed}" for arm in ("like", "still") for seed in (5, 6, 7)]
    more = json.loads(Path("results/claim.json").read_text())
    assert [part["seeds"] for part in more["made"]] == [[0, 1, 2, 3, 4], [5, 6, 7]]
    assert more["values"]["like"]["accuracy"][:5] == first["values"]["like"]["accuracy"]
    assert more["values"]["like"]["accuracy"] == [difference("like", seed) for seed in range(8)]
    assert {arm: "".join(own) for arm, own in more["keys"].items()} == {"still": "01234567", "like": "01234567"}

    shutil.rmtree("runs")
    MADE.clear()
    Path("base.yaml").write_text(Path("base.yaml").read_text() + "trainer: {max_steps: 3}\n")
    assert study("--record", seeds=8) == 0
    assert len(MADE) == 16, "another study: nothing of the record counts"


@pytest.mark.usefixtures("_here")
def test_a_record_keeps_what_was_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    """The runs that tuned are gone too."""
    tune = {"data.batch_size": [16, 32], "by": "val/accuracy", "seeds": [100], "fixed": {"like": ["data.batch_size"]}}
    assert study("--record", seeds=5, tune=tune) == 0
    assert MADE[:2] == ["still 100", "still 100"]
    assert len(MADE) == 12
    capsys.readouterr()
    assert study("--show", seeds=5, tune=tune) == 0
    assert (
        "tuned still: data.batch_size 16 (val/accuracy 0.5); data.batch_size at the border" in capsys.readouterr().out
    )
    for again, made in (("--record", 2), ("--confirm", 2)):
        shutil.rmtree("runs")
        MADE.clear()
        assert study(again, seeds=6 if again == "--record" else 5, tune=tune) == 0
        assert len(MADE) == made, "one seed of two arms"
    assert json.loads(Path("results/claim.json").read_text())["tuned"]["arms"]["still"]["chosen"] == {
        "data.batch_size": 16
    }


@pytest.mark.usefixtures("_here")
def test_a_block_is_of_five_at_least(capsys: pytest.CaptureFixture[str]) -> None:
    assert study(block=4) == 2
    assert "block: given 4; allowed: 5 or more" in capsys.readouterr().err


def git(*args: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *identity, *args], check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.usefixtures("_here")
def test_a_recorded_study_in_blocks_is_held_at_a_commit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert study("--record", block=5) == 2
    assert "block: given" in (message := capsys.readouterr().err)
    assert "a folder under git" in message
    git("init", "-q")
    git("add", "base.yaml")
    git("commit", "-qm", "a base")
    assert study("--record", block=5) == 2
    assert "claim.yaml, which is not committed" in capsys.readouterr().err
    git("add", "claim.yaml")
    git("commit", "-qm", "a study")
    first = git("rev-parse", "HEAD")
    Path("base.yaml").write_text(Path("base.yaml").read_text() + "# words\n")
    assert study("--record", block=5) == 2
    assert "block: given 'base.yaml'" in capsys.readouterr().err
    git("commit", "-qam", "other words")
    second = git("rev-parse", "HEAD")

    asked: list[tuple[list[str], Path]] = []
    real = subprocess.run

    def run(args: list[str], **how: Any) -> Any:
        if "study" not in args:
            return real(args, **how)
        asked.append((args, Path(how["cwd"])))
        file = how["cwd"] / "results" / "claim.json"
        seeds = min(12, 5 * len(asked))
        claim = {"says": "c", "verdict": "not decided", "main": True, "judged": [], "given": [], "diverged": {}}
        digest = json.loads(Path("digest.json").read_text())
        made = [{"seeds": list(range(seeds)), "commit": second}]
        write_text(
            file, json.dumps({"claims": [claim], "seeds": made[0]["seeds"], "made": made, "config_digest": digest})
        )
        return subprocess.CompletedProcess(args, 0)

    Path("digest.json").write_text(json.dumps(study_digest(asdict(Study.load("claim.yaml")))))
    monkeypatch.setattr("lit_ft.studies.checkout.subprocess.run", run)
    assert study("--record", block=5) == 0
    args, cwd = asked[0]
    assert re.search(r"study claim.yaml --record --jobs=1 --launcher=local --runs=\S*/runs$", " ".join(args))
    assert cwd == Path("runs/studies/claim/checkout").resolve()
    assert git("-C", str(cwd), "rev-parse", "HEAD") == second != first
    assert json.loads(Path("results/claim.json").read_text())["seeds"] == [0, 1, 2, 3, 4]

    Path("base.yaml").write_text(Path("base.yaml").read_text() + "# more words\n")
    git("commit", "-qam", "more words")
    shutil.rmtree(cwd)  # another day, with the record alone
    assert held(Study.load("claim.yaml"), Path("claim.yaml"), cwd) == second, "the commit that the record names"
    assert study("--record", block=5) == 0
    assert study("--record", block=5) == 0
    assert not cwd.exists(), "the seeds are used up"
    Path("base.yaml").write_text("trainer: {max_steps: 3}\n")
    with pytest.raises(ConfigError, match="a committed state"):
        held(Study.load("claim.yaml"), Path("claim.yaml"), cwd)
