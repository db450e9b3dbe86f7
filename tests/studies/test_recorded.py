"""What is committed beside the studies: it parses, it says what its numbers say, and it knows when it is stale."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lit_ft.command.catalogue import config_folder
from lit_ft.core.errors import ConfigError
from lit_ft.studies.code import PACKAGE, closure_of, files_of, late_imports, tree_digest
from lit_ft.studies.record import verdicts_again
from lit_ft.studies.staleness import stale, study_digest
from lit_ft.studies.study import Study
from lit_ft.studies.verdict import judge_claim

STUDIES = sorted((config_folder() / "studies").glob("*.yaml"))
RESULTS = sorted((config_folder() / "studies" / "results").glob("*.json"))


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(config_folder().parent)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_can_be_read(path: Path) -> None:
    study = Study.load(path)
    assert all(claim.says and claim.expect for claim in study.claims)
    assert study.scale, "what would be changed to run it at the paper's size"


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_recorded_verdict_is_that_of_its_numbers(path: Path) -> None:
    """By its own statements; where the study still says the same, by those of the study."""
    result = json.loads(path.read_text())
    study = Study.load(config_folder() / "studies" / f"{path.stem}.yaml")
    values = {arm: {name: np.array(numbers) for name, numbers in own.items()} for arm, own in result["values"].items()}
    for claim in result["claims"]:
        expect, given = ([one["text"] for one in claim[part]] for part in ("judged", "given"))
        again = judge_claim(claim["says"], expect, given, claim["main"], values, result.get("looks", 1))
        assert (claim["verdict"], claim["headline"]) == (again.verdict, again.headline())
    main = next(claim for claim in result["claims"] if claim["main"])
    assert {key: result[key] for key in ("verdict", "headline")} == {key: main[key] for key in ("verdict", "headline")}
    assert result["paper"] == study.paper
    assert result["versions"]["torch"]
    assert result["hardware"]
    if result["config_digest"] == study_digest(asdict(study)) and ("drawn" in result or study.seeded is not None):
        again = json.loads(json.dumps(verdicts_again(result, study)))
        assert {key: result[key] for key in ("verdict", "headline")} == {
            key: again[key] for key in ("verdict", "headline")
        }
        assert [claim["verdict"] for claim in result["claims"]] == [claim["verdict"] for claim in again["claims"]]
        assert result["seeds"] in [study.seeds[:count] for count in study.looks]


@pytest.fixture
def content(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "base.yaml").write_text("# a base\ntrainer: {max_steps: 3}\n")
    base = [str(tmp_path / "base.yaml")]
    return {"claims": [{"says": "c"}], "base": base, "arms": {"a": None}, "seeds": [0], "measure": {"x": "k"}}


def test_a_changed_config_makes_a_result_stale_and_a_comment_does_not(content: dict[str, Any]) -> None:
    result = {"config_digest": study_digest(asdict(Study.of("s", content))), "classes": {}, "drawn": []}
    base = Path(content["base"][0])
    base.write_text("# another comment\ntrainer:\n  max_steps: 3\n")
    assert not stale(result, {**content, "claims": [{"says": "in other words", "expect": "a.x > 0"}]})
    assert stale(result, {**content, "measure": {"x": {"key": "k", "take": "mean"}}})
    base.write_text("trainer: {max_steps: 4}\n")
    assert stale(result, content) == ["the study or its configs changed"]


def test_a_changed_class_makes_a_result_stale(content: dict[str, Any]) -> None:
    digest = tree_digest(PACKAGE / "vision" / "image_classifier.py")
    result = {"config_digest": study_digest(content), "classes": {"ImageClassifier": digest}, "drawn": []}
    assert not stale(result, content)
    result["classes"] = {"ImageClassifier": "other", "Gone": digest}
    assert stale(result, content) == ["ImageClassifier changed", "Gone changed"]


def test_code_of_classes(tmp_path: Path) -> None:
    """Comments, docstrings and places of imports do not count; a file that is imported does, also by another one."""
    (tmp_path / "a.py").write_text('"""Doc."""\nfrom here import y\nx = 1  # one\n')
    (tmp_path / "b.py").write_text('"""Other."""\nfrom there import y\nx = 1\n')
    (tmp_path / "c.py").write_text('"""Doc."""\nx = 2\n')
    assert tree_digest(tmp_path / "a.py") == tree_digest(tmp_path / "b.py") != tree_digest(tmp_path / "c.py")
    place = PACKAGE / "vision" / "image_classifier.py"
    assert files_of("lit_ft.methods", "ImageClassifier") == [place]
    closure = {str(file.relative_to(PACKAGE)) for file in closure_of(("lit_ft.methods.ImageClassifier",))}
    assert {
        "vision/image_classifier.py",
        "core/method.py",
        "core/passes/window.py",
        "core/errors.py",
    } <= closure
    assert "flatness/sam.py" not in closure


def test_what_classes_import_when_they_are_used() -> None:
    digits, tables = late_imports(["lit_ft.data.Digits"]), late_imports(["Instructions"])
    assert "sklearn.datasets" in digits
    assert "datasets" not in digits
    assert "datasets" in tables
    assert not {"lit_ft", "json"} & {module.split(".")[0] for module in tables}
    assert late_imports(["torch.optim.SGD", "no.such.Thing"]) == []


def test_anchors_of_yaml_are_arms_of_their_own(tmp_path: Path) -> None:
    study = Study.load(config_folder() / "studies" / "B5.yaml")
    assert study.arms["full_low"]["model"] != study.arms["full_high"]["model"]
    assert yaml.safe_dump(study.arms["full_high"])
    with pytest.raises(ConfigError, match="FILE"):
        Study.load(tmp_path / "absent.yaml")
