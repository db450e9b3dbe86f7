"""What every data module promises about its arguments, wherever they are declared."""

import inspect
import json
import re
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from jsonargparse import ArgumentParser

import lit_ft.data
from lit_ft.classification.numbers import GaussianClusters
from lit_ft.core.errors import ConfigError
from lit_ft.data import Instructions
from lit_ft.models.byte_tokenizer import byte_tokenizer

FOUND = {name: getattr(lit_ft.data, name) for name in lit_ft.data.__all__}
MODULES = {name: kind for name, kind in FOUND.items() if issubclass(kind, pl.LightningDataModule)}
OF_TABLES = [name for name, kind in MODULES.items() if next(iter(inspect.signature(kind).parameters)) == "path"]

NEEDED: dict[str, dict[str, Any]] = {
    "AnswerOptions": {"options_column": "options"},
    "StreamedInstructions": {"epoch_batches": 2},
}


@pytest.mark.parametrize("name", MODULES)
def test_help_shows_every_argument_with_what_it_means(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    kind = MODULES[name]
    arguments = ArgumentParser().add_class_arguments(kind)
    parser = ArgumentParser()
    parser.add_subclass_arguments(pl.LightningDataModule, "data")
    with pytest.raises(SystemExit):
        parser.parse_args([f"--data.help={kind.__module__}.{name}"])
    shown = re.sub(r"\n {20,}", "  ", capsys.readouterr().out)  # a long name stands on a line of its own
    assert arguments
    for argument in arguments:
        assert re.search(rf"^ +--data\.{argument} .*?  +(?!\()\S", shown, re.M), f"{argument} has no help"


@pytest.mark.parametrize("name", OF_TABLES)
def test_a_path_alone_will_do(name: str) -> None:
    kind = MODULES[name]
    data = kind("x.jsonl", **NEEDED.get(name, {}))
    assert getattr(data, "source", data).path == "x.jsonl"


@pytest.mark.parametrize("argument", ["batch_size", "max_rows", "val_fraction", "num_workers", "max_length"])
def test_the_error_names_the_class_that_was_asked_for(argument: str) -> None:
    with pytest.raises(ConfigError, match=rf"Instructions\.{argument}: given -1") as caught:
        Instructions("x.jsonl", **{argument: -1})  # type: ignore[arg-type]
    assert caught.value.owner == "Instructions"


def test_a_batch_size_that_is_set_later_counts(tmp_path: Path) -> None:
    """As Lightning's search for a batch size sets it."""
    numbers = GaussianClusters(rows=40)
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": f"row {i}"}) + "\n" for i in range(20)))
    texts = Instructions(str(path), val_fraction=0.0)
    texts.tokenizer = byte_tokenizer()
    for data in (numbers, texts):
        data.batch_size = 3
        data.setup("fit")
        assert len(next(iter(data.train_dataloader()))["images" if data is numbers else "input_ids"]) == 3
