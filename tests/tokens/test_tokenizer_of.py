"""Text data in a notebook, without a Trainer: the same batches as with one."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from lit_ft.core.errors import ConfigError
from lit_ft.data import AnswerOptions, Instructions, LabelledText, Preferences, TextPairs, UnpairedPreferences
from lit_ft.methods import SupervisedFineTuning

LLAMA = {"model_type": "llama", "tokenizer": "bytes", "hidden_size": 16, "intermediate_size": 32,
         "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 128}  # fmt: skip
ROWS = [
    {
        "prompt": f"say {i}",
        "completion": "a" * (i + 1),
        "chosen": f"yes {i}",
        "rejected": f"no {i}",
        "label": i % 2 == 0,
        "answer": 0,
        "options": [f"x{i}", f"y{i}"],
    }
    for i in range(30)
]
MAKERS: dict[str, Callable[[str], pl.LightningDataModule]] = {
    "instructions": lambda path: Instructions(path, batch_size=4),
    "packed": lambda path: Instructions(path, max_length=40, packing=True, batch_size=2),
    "preferences": lambda path: Preferences(path, batch_size=4),
    "unpaired": lambda path: UnpairedPreferences(path, batch_size=4),
    "pairs": lambda path: TextPairs(path, batch_size=4),
    "labelled": lambda path: LabelledText(path, text="prompt", label="label", batch_size=4),
    "options": lambda path: AnswerOptions(path, options_column="options", batch_size=4),
}


READ = {  # a table with more columns would leave in doubt what is meant
    "instructions": ("prompt", "completion"),
    "packed": ("prompt", "completion"),
    "unpaired": ("prompt", "completion", "label"),
    "pairs": ("prompt", "completion"),
}


def table(folder: Path, kind: str) -> str:
    file = folder / "rows.jsonl"
    rows = [{name: row[name] for name in READ.get(kind, tuple(row))} for row in ROWS]
    file.write_text("\n".join(map(json.dumps, rows)))
    return str(file)


def first_batch(data: pl.LightningDataModule) -> Any:
    data.prepare_data()
    data.setup("fit")
    loader = data.val_dataloader() if isinstance(data, AnswerOptions) else data.train_dataloader()
    return next(iter(loader))


@pytest.mark.parametrize("kind", list(MAKERS))
@pytest.mark.filterwarnings("ignore:packing is not checked")
def test_batches_without_a_trainer(kind: str, tmp_path: Path) -> None:
    path = table(tmp_path, kind)
    model = SupervisedFineTuning({"config": dict(LLAMA)})  # type: ignore[arg-type]
    alone, attached = MAKERS[kind](path), MAKERS[kind](path)
    with pytest.raises(ConfigError, match=r"or data.tokenizer = model.tokenizer"):
        first_batch(MAKERS[kind](path))
    alone.tokenizer = model.tokenizer  # type: ignore[attr-defined]
    model.configure_model()
    attached.trainer = SimpleNamespace(lightning_module=model)  # type: ignore[assignment]
    found, expected = first_batch(alone), first_batch(attached)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value) if isinstance(value, torch.Tensor) else found[key] == value


def test_packing_that_could_not_be_checked_is_checked_in_training(tmp_path: Path) -> None:
    path = table(tmp_path, "packed")
    model, data = SupervisedFineTuning({"config": dict(LLAMA)}), MAKERS["packed"](path)  # type: ignore[arg-type]
    data.tokenizer = model.tokenizer  # type: ignore[attr-defined]
    with pytest.warns(UserWarning, match="packing is not checked"):
        first_batch(data)
    assert not data._checked  # type: ignore[attr-defined]
    pl.Trainer(max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False).fit(model, data)
    assert data._checked  # type: ignore[attr-defined]
