"""Every file in configs/ runs: a few steps of fit, then a test, through the command, in one process.

Files on SmolLM2-135M run on a tiny random Llama with the same tokenizer, data and adapters: the true weights, gradients
and optimizer state take minutes to write, for a test that looks at mechanics. As they are they run in the slow tests.

A config that needs other overrides for a short run says so in a line ``# Smoke: --key=value ...``.
"""

import json
import re
from pathlib import Path

import pytest
import yaml

from lit_ft.command.catalogue import config_files, config_folder
from lit_ft.command.cli import command
from lit_ft.studies.study import Study

SMOKE = ["--trainer.max_steps=2", "--trainer.limit_val_batches=1", "--trainer.num_sanity_val_steps=0"]
TINY = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 49152,
    "tokenizer": "packaged:SmolLM2-135M-Instruct",
}
HEAVY = ("SmolLM2",)  # replaced by TINY in the fast tests
SLOW_DEMO = "demo.yaml"  # minutes of probing and curvature; make demo runs it


def marks(path: Path, slow: bool) -> list[pytest.MarkDecorator]:
    found = [pytest.mark.real] if "packaged:" in path.read_text() else []
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


@pytest.mark.parametrize("path", [named(path) for path in config_files()])
def test_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(config_folder().parent)
    heavy = any(name in path.read_text() for name in HEAVY)
    overlay = {"model": {"init_args": {"network": {"path": None, "config": TINY}}}} if heavy else {}
    run(path, tmp_path, overlay, capsys)


@pytest.mark.parametrize("path", [named(path, True) for path in config_files() if "SmolLM2" in path.read_text()])
def test_runs_on_its_own_weights(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(config_folder().parent)
    run(path, tmp_path, {}, capsys)


@pytest.mark.parametrize("path", sorted((config_folder() / "studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_studies_are_well_formed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(config_folder().parent)
    assert Study.load(path).expect
