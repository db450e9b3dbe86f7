"""``lit-ft methods``: what is read from the source is what importing it would show, and it is quick."""

import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest

import lit_ft.data
import lit_ft.methods
from lit_ft.command import catalogue
from lit_ft.command.cli import command
from lit_ft.core.batches import kind_of


def test_what_is_read_is_what_is_imported(capsys: pytest.CaptureFixture[str]) -> None:
    import lit_ft.callbacks

    assert command(["methods", "--json"]) == 0
    found = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    for kind, package in (("method", lit_ft.methods), ("callback", lit_ft.callbacks), ("data module", lit_ft.data)):
        for name, entry in found.items():
            if entry["kind"] == kind and hasattr(package, name):
                there = getattr(package, name)
                assert entry["batch_kind"] == kind_of(there), name
    assert found["ImageClassifier"]["batch_kind"] == "images"
    assert found["SAM"]["kind"] == "callback"
    assert "A1" in found["SAM"]["papers"]
    assert "flatness/sam.yaml" in found["SAM"]["configs"]
    assert all(entry["summary"] for entry in found.values())


def test_the_listing_does_not_import_torch() -> None:
    code = (
        "import sys; from lit_ft.command.cli import command; command(['methods']); command(['methods', '--gallery']);"
        "print([m for m in ('torch', 'lightning', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"
    assert "methods" in done.stdout


def test_a_reader_may_stop_early() -> None:
    line = f"{sys.executable} -m lit_ft methods | head -1"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_what_is_left_to_subclasses_is_not_listed() -> None:
    names = {entry.name: entry.summary for entry in catalogue.entries()}
    assert "Instructions" in names
    assert not {"TokenData", "Policy", "UnpairedPolicy"} & set(names)
    assert not [name for name, summary in names.items() if ":math:" in summary]


def test_every_method_and_data_module_is_listed() -> None:
    """One that does not say what its batches are would be found by nobody."""
    public = {name: getattr(door, name) for door in (lit_ft.methods, lit_ft.data) for name in door.__all__}
    kinds = (pl.LightningModule, pl.LightningDataModule)
    modules = {name for name, value in public.items() if inspect.isclass(value) and issubclass(value, kinds)}
    assert {"KTO", "Preferences"} <= modules <= {entry.name for entry in catalogue.entries()}


def test_a_moved_class_is_marked_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = catalogue.config_folder() / "studies" / "results"
    result: dict[str, Any] = json.loads((folder / "B5.json").read_text())
    result |= {"verdict": "holds", "headline": "`a > b`: 1 [0, 2]"}
    monkeypatch.setattr(catalogue, "results", lambda: {"B5": result})
    row = next(line for line in catalogue.gallery().splitlines() if line.startswith("| B5 "))
    assert "[holds](configs/studies/results/B5.json): `a > b`: 1 [0, 2]" in row
    result["classes"] = {**result["classes"], "data/digits.py": "another"}
    row = next(line for line in catalogue.gallery().splitlines() if line.startswith("| B5 "))
    assert row.endswith("(stale) |")


def test_the_gallery_is_put_between_its_marks(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{catalogue.START}\nwhat was there\n{catalogue.END}\nafter\n")
    assert command(["methods", "--gallery", str(readme)]) == 0
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "what was there" not in text
    assert "`ImageClassifier`" in text
    assert not catalogue.renew_readme(readme), "a second time changes nothing"
