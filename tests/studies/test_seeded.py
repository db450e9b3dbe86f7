"""What the seeds of a study draw: every seed that nobody wrote, at every depth of a configuration."""

from pathlib import Path
from typing import Any

import pytest

from lit_ft.command.run import resolve
from lit_ft.core.errors import ConfigError
from lit_ft.core.yaml_text import write_yaml
from lit_ft.studies.places import places, the_place
from lit_ft.studies.plan import Planned, differing, plan
from lit_ft.studies.staleness import draws_data, stale, study_digest
from lit_ft.studies.study import Study

DIGITS = {"class_path": "Digits", "init_args": {"flat": True}}
MASK = {
    "class_path": "GradientMask",
    "init_args": {"selection": {"class_path": "RandomElements", "init_args": {"density": 0.5}}},
}
BASE: dict[str, Any] = {
    "model": {"class_path": "ImageClassifier", "init_args": {"network": {"config": {"model_type": "mlp"}}}},
    "data": {"class_path": "SideBySide", "init_args": {"easy": DIGITS, "hard": DIGITS, "easy_classes": [[0], [1]],
                                                       "hard_classes": [[2], [3]]}},
    "trainer": {"callbacks": [{"class_path": "Forgetting", "init_args": {"data": {"old": DIGITS}}}]},
}  # fmt: skip
EVERY = {
    "data.seed",
    "data.easy.seed",
    "data.hard.seed",
    "trainer.callbacks.Forgetting.data.old.seed",
    "trainer.callbacks.GradientMask.selection.seed",
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def study(arm: dict[str, Any] | None = None, **changes: Any) -> Study:
    Path("base.yaml").write_text(write_yaml(BASE))
    content = {"claims": [{"says": "c"}], "base": "base.yaml", "seeds": [3], "measure": {"x": "k"}}
    return Study.of("s", {**content, "arms": {"a": {"trainer": {"callbacks+": [MASK]}, **(arm or {})}}, **changes})


def seeds(run: Planned) -> dict[str, int]:
    return {place.name: place.value for place in places(run.config) if place.name.endswith("seed")}


def test_every_seed_is_drawn_and_the_run_is_told() -> None:
    (run,) = plan(study(), Path("runs"))
    assert seeds(run) == dict.fromkeys(EVERY, 3)
    assert set(run.drawn) == EVERY
    assert resolve(run.args) == run.config, "the arguments say what the key digests"


def test_a_seed_that_is_written_stands_and_is_shown() -> None:
    (run,) = plan(written := study({"data": {"init_args": {"easy": {"init_args": {"seed": 7}}}}}), Path("runs"))
    assert seeds(run) == {**dict.fromkeys(EVERY, 3), "data.easy.seed": 7}
    lines = differing(written)
    assert "a seed 3: data.easy.seed is 7 in every run, as it is written" in lines
    assert any(line.startswith("each seed draws ") and "data.hard.seed" in line for line in lines)
    assert not any(line.startswith("each seed draws ") and "data.easy.seed" in line for line in lines)


def test_a_study_may_name_what_is_drawn() -> None:
    (run,) = plan(study(seeded=["data.init_args.seed", "trainer.callbacks.Forgetting.data.old.seed"]), Path("runs"))
    assert {name for name, seed in seeds(run).items() if seed == 3} == {*run.drawn}
    assert set(run.drawn) == {"data.seed", "trainer.callbacks.Forgetting.data.old.seed"}
    (run,) = plan(study(seeded=[]), Path("runs"))
    assert set(seeds(run).values()) == {0}
    assert resolve(run.args) == run.config


def test_places_are_named_or_refused() -> None:
    config: dict[str, Any] = {
        "trainer": {"callbacks": [{"class_path": "a.SAM", "init_args": {"rho": 1}}] * 2},
        "data": {"size": 2},
    }
    assert the_place(config, "data.init_args.size", "tune").value == 2
    assert the_place(config, "trainer.callbacks[1].init_args.rho", "tune").steps[2] == 1, "as --show prints it"
    assert the_place({"trainer": {"callbacks": config["trainer"]["callbacks"][0]}}, "trainer.callbacks.SAM.rho", "x")
    for key, message in {
        "data.sise": "did you mean 'data.size'",
        "trainer.callbacks.SAM.rho": r"callbacks\[1\]",
    }.items():
        with pytest.raises(ConfigError, match=message):
            the_place(config, key, "tune")


def test_a_record_whose_seeds_drew_no_data_says_so() -> None:
    content = {"claims": [], "base": [], "arms": {"a": None}, "measure": {"x": "k"}}
    old = {"config_digest": study_digest(content), "classes": {}}
    assert stale(old, content) == ["its seeds drew no data"]
    assert not draws_data(old, content)
    assert draws_data({"drawn": ["data.seed"]}, content)
    assert not draws_data({"drawn": ["trainer.callbacks.FeatureProbe.data.seed"]}, content), "rows of a probe alone"
    named = {**content, "seeded": ["data.seed"]}
    assert not stale({**old, "config_digest": study_digest(named)}, named)
    assert draws_data(old, named), "as older records say it"
