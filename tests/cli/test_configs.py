"""Every file in configs/ runs: a few steps of fit, then a test, through the command, in one process.

Files on packaged models run on tiny random networks with the same tokenizer and adapters, and on few rows of the same
data: the true weights, gradients and optimizer state take minutes to write, for a test that looks at mechanics. One
file a model runs on the true weights; in the slow tests all files on SmolLM2 do.

A config that needs other overrides for a short run says so in a line ``# Smoke: --key=value ...``.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentParser
from transformers import AutoTokenizer

import lit_ft.data
from lit_ft.command.catalogue import config_files, config_folder
from lit_ft.command.cli import command
from lit_ft.studies.study import Study

SMOKE = ["--trainer.max_steps=2", "--trainer.limit_val_batches=1", "--trainer.num_sanity_val_steps=0"]
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
# what stands for a packaged model in the fast tests
TINY = {
    "SmolLM2-135M-Instruct": {"model_type": "llama", "vocab_size": 49152, "num_hidden_layers": 2, **SIZES},
    "all-MiniLM-L6-v2": {"model_type": "bert", "vocab_size": 30522, "num_hidden_layers": 6, **SIZES},
}
# the one file a model that runs on its weights, and what makes that short
REAL: dict[str, dict[str, Any]] = {
    "embedding/echo.yaml": {"batch_size": 2, "max_length": 8},
    "classification/trec.yaml": {},
}
FEW = {"max_rows": 64, "max_eval_rows": 16, "max_length": 64, "rows": 400, "tasks": 4, "conversations": 64,
       "sequences": 64, "eval_sequences": 8, "documents": 64}  # fmt: skip
# a file each for all that has figures of its own
DRAWN = (
    "connectivity/classifier_pair.yaml", "flatness/edge_of_stability_gd.yaml", "preference/dpo.yaml",
    "sparse/frozen_layers.yaml", "sparse/high_digits.yaml", "vision/certified_classifier.yaml",
)  # fmt: skip
SLOW_DEMO = "demo.yaml"  # minutes of probing and curvature; make demo runs it


def marks(path: Path, slow: bool) -> list[pytest.MarkDecorator]:
    found = [pytest.mark.real] if "packaged:" in path.read_text() else []
    found += [pytest.mark.draws] if str(path.relative_to(config_folder())) in DRAWN else []
    return [*found, pytest.mark.slow] if slow or path.name == SLOW_DEMO else found


def named(path: Path, slow: bool = False) -> object:
    return pytest.param(path, id=str(path.relative_to(config_folder())), marks=marks(path, slow))


def run(path: Path, tmp_path: Path, overlay: dict, capsys: pytest.CaptureFixture[str]) -> None:
    own = [
        line.removeprefix("# Smoke:").split() for line in path.read_text().splitlines() if line.startswith("# Smoke:")
    ]
    over = tmp_path / "overlay.yaml"
    over.write_text("# what the test changes\n" + yaml.safe_dump(overlay))
    base = [
        "-c",
        str(path),
        "-c",
        str(over),
        f"--run_dir={tmp_path / 'run'}",
        *SMOKE,
        *(p for line in own for p in line),
    ]
    assert command(["fit", *base, "--debug"]) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["status"] == "finished"
    assert report["steps"] >= 2
    status = command(["test", *base, "--trainer.limit_test_batches=1", "--ckpt_path=last"])
    if status == 2:  # a file without rows for a test says so
        assert re.search("this one has none|test_dataloader", capsys.readouterr().err)
        return
    assert status == 0
    tested = json.loads((tmp_path / "run" / "report.json").read_text())
    assert "test_command" in tested
    assert any(key.startswith("test/") for key in tested["metrics"])


def few(value: Any) -> Any:
    """A part of a configuration, whose data modules, where they can, take few and short rows."""
    if isinstance(value, list):
        return [few(part) for part in value]
    if not isinstance(value, dict):
        return value
    made = {key: few(part) for key, part in value.items()}
    kind = getattr(lit_ft.data, str(value.get("class_path")), None)
    if kind is None:
        return made
    known = ArgumentParser(exit_on_error=False).add_class_arguments(kind)  # also what it hands on to its base
    given = made.get("init_args") or {}
    less = {name: min(number, given.get(name) or number) for name, number in FEW.items() if name in known}
    return {**made, "init_args": {**given, **less}}


def in_short(config: dict[str, Any]) -> dict[str, Any]:
    """An overlay by which all data are few, and the second step is validated."""
    trainer, overlay = config.get("trainer") or {}, {}
    if "val_check_interval" in trainer:
        overlay["val_check_interval"] = 2
    if (callbacks := few(trainer.get("callbacks"))) != trainer.get("callbacks"):
        overlay["callbacks"] = callbacks
    data = few(config.get("data"))
    return {"trainer": overlay, **({"data": data} if data != config.get("data") else {})}


def in_small(config: dict[str, Any]) -> dict[str, Any]:
    """An overlay by which a tiny network stands for a packaged one."""
    network = config["model"].get("init_args", {}).get("network") or {}
    name = str(network.get("path")).removeprefix("packaged:")
    if name not in TINY:
        return {}
    tiny = {"path": None, "config": {**TINY[name], "tokenizer": network["path"]}}
    return {"model": {"init_args": {"network": tiny}}}


LOADED: dict[str, tuple[Any, Any]] = {}
load = AutoTokenizer.from_pretrained


def loaded(place: str, **settings: Any) -> Any:
    """A tokenizer that was loaded before, unless somebody has added to it since."""
    found, was = LOADED.get(str(place), (None, None))
    if found is None or (len(found), found.chat_template) != was:
        found = load(place, **settings)
        LOADED[str(place)] = found, (len(found), found.chat_template)
    return found


@pytest.fixture(autouse=True)
def _tokenizers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes a third of a second to load, which the runs of a file do four times."""
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", loaded)


@pytest.mark.filterwarnings("ignore:EdgeOfStability. with SAM:UserWarning")
@pytest.mark.parametrize("path", [named(path) for path in config_files()])
def test_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(config_folder().parent)
    config = yaml.safe_load(path.read_text())
    run(path, tmp_path, in_short(config) | in_small(config), capsys)


@pytest.mark.parametrize(
    "path", [pytest.param(config_folder() / name, id=name, marks=pytest.mark.real) for name in REAL]
)
def test_runs_on_true_weights(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(config_folder().parent)
    overlay = in_short(yaml.safe_load(path.read_text()))
    overlay["data"]["init_args"] |= REAL[str(path.relative_to(config_folder()))]
    run(path, tmp_path, overlay, capsys)


def test_every_packaged_model_runs_on_its_weights() -> None:
    used = {
        name
        for path in config_files()
        for name in TINY
        if f"path: packaged:{name}" in path.read_text().replace('"', "")
    }
    assert used == {name for name in TINY for file in REAL if name in (config_folder() / file).read_text()}


@pytest.mark.parametrize("path", [named(path, True) for path in config_files() if "SmolLM2" in path.read_text()])
def test_runs_on_its_own_weights(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(config_folder().parent)
    run(path, tmp_path, {}, capsys)


@pytest.mark.parametrize("path", sorted((config_folder() / "studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_studies_are_well_formed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(config_folder().parent)
    assert all(claim.expect for claim in Study.load(path).claims)


@pytest.mark.parametrize("path", [named(path) for path in config_files() if "val_check_interval" in path.read_text()])
def test_a_config_serves_tables_of_any_size(path: Path) -> None:
    """Batches until a validation are counted across epochs: a small table of one's own has fewer in an epoch."""
    trainer = yaml.safe_load(path.read_text()).get("trainer", {})
    if isinstance(trainer.get("val_check_interval"), int) and trainer["val_check_interval"] > 1:
        assert trainer.get("check_val_every_n_epoch", 1) is None
