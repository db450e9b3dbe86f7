"""Names of classes stay with the weights: in the checkpoint, and against other data."""

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from lit_ft.core.errors import ConfigError
from lit_ft.data import GaussianClusters, LabelledText, TextPairs
from lit_ft.methods import ExpertEmbedding, ImageClassifier, TextClassifier

BERT = {"config": {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                   "intermediate_size": 16, "tokenizer": "bytes"}}  # fmt: skip


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_FT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def trainer(saves: bool = False) -> pl.Trainer:
    return pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
                      max_steps=1, default_root_dir=".", enable_checkpointing=saves)  # fmt: skip


def texts(name: str, labels: list[Any]) -> LabelledText:
    rows = [{"text": f"text {i}", "label": labels[i % len(labels)]} for i in range(20)]
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return LabelledText(name)


def test_names_are_kept_and_other_ones_refused(tmp_path: Path) -> None:
    model, run = TextClassifier(BERT), trainer(True)
    run.fit(model, texts("rows.jsonl", [7, 8, "007"]))
    path = run.checkpoint_callback.best_model_path  # type: ignore[union-attr]
    assert torch.load(path, weights_only=True)["class_names"] == ["7", "8", "007"]
    again = TextClassifier.load_from_checkpoint(path, weights_only=True)
    assert again.class_names == ["7", "8", "007"]
    trainer().test(again, texts("same.jsonl", ["007", "8.0", 7]), verbose=False)
    for labels, said in (
        (["7", "8", "9"], "given .classes 7, 8, 9 of LabelledText.; .*: 7, 8, 007 .new: 9; without: 007."),
        (["7", "8"], "without: 007"),
        (["7", "8", "007", "x"], "num_classes: given 3; allowed: 4 or more, the classes 7, 8, 007, x of the data"),
    ):
        with pytest.raises(ConfigError, match=said):
            trainer().test(again, texts("other.jsonl", labels), verbose=False)
        with pytest.raises(ConfigError, match="classes"):  # the checkpoint comes after the data
            trainer().test(TextClassifier(BERT), texts("other.jsonl", labels), ckpt_path=path, verbose=False,
                           weights_only=True)  # fmt: skip


def test_a_new_fit_has_the_names_of_its_data() -> None:
    model = TextClassifier(BERT)
    for labels in (["a", "b"], ["c", "d"]):
        trainer().fit(model, texts("rows.jsonl", labels))
        assert model.class_names == labels


def test_too_few_outputs_are_refused_before_the_first_step() -> None:
    with pytest.raises(ConfigError, match="num_classes: given 2; allowed: 3 or more, the classes 0, 1, 2 of the data"):
        trainer().fit(ImageClassifier({"config": {"model_type": "mlp"}}, num_classes=2), GaussianClusters(classes=3))


def test_experts_are_called_as_their_domains() -> None:
    rows = [{"anchor": f"a{i}", "positive": f"b{i}", "domain": (10, 9)[i % 2]} for i in range(8)]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = TextPairs("pairs.jsonl", label="domain", batch_size=4, val_fraction=0.0)
    config = {**BERT["config"], "intermediate_size": 32, "num_hidden_layers": 2}
    model = ExpertEmbedding({"config": config})
    trainer().fit(model, data)
    assert model.class_names == data.class_names == ["9", "10"]
