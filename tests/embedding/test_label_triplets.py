"""Triplets from labels: classes and topics as they should be, what has none, accuracy by hand, resume."""

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from lit_ft.core.errors import ConfigError
from lit_ft.data import LabelTriplets
from lit_ft.embedding.contrastive import Triplet, Vectors, triplet_accuracy
from lit_ft.methods import SentenceEmbedding
from lit_ft.models.byte_tokenizer import byte_tokenizer

BERT = {"config": {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                   "intermediate_size": 16, "tokenizer": "bytes"}}  # fmt: skip
ROWS = [{"text": f"{topic}{kind} {i}", "topic": topic, "kind": topic + kind} for topic in "AB" for kind in "xyz"
        for i in range(6)]  # fmt: skip


def written(folder: Path, rows: list[dict[str, Any]] = ROWS) -> str:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def texts(path: str, split: str = "train", **arguments: Any) -> list[list[str]]:
    """The triplets of a split."""
    data = LabelTriplets(path, target="kind", **arguments)
    data.trainer = type("T", (), {"lightning_module": type("M", (), {"tokenizer": byte_tokenizer()})()})()  # type: ignore[assignment]
    data.setup("fit")
    return [
        [data.trainer.lightning_module.tokenizer.decode(t.input_ids) for t in row["texts"]] for row in data.rows[split]
    ]  # type: ignore[attr-defined]


@pytest.mark.parametrize("near", [None, "topic"])
def test_classes_and_topics(near: str | None, tmp_path: Path) -> None:
    """A text begins with its topic and its class."""
    path = written(tmp_path)
    found = texts(path, near=near, val_fraction=0.25)
    assert len(found) == 27
    for anchor, positive, negative in found:
        assert anchor[:2] == positive[:2] != negative[:2]
        assert anchor != positive
        assert near is None or anchor[0] == negative[0]
    assert near is not None or any(anchor[0] != negative[0] for anchor, _, negative in found)
    apart = {text for triplet in texts(path, "val", near=near, val_fraction=0.25) for text in triplet}
    assert not apart & {text for triplet in found for text in triplet}, "splits share no text"
    assert found == texts(path, near=near, val_fraction=0.25) != texts(path, near=near, val_fraction=0.25, seed=1)


def test_texts_without_a_partner_are_left_out_and_counted(tmp_path: Path) -> None:
    """A class of one text, and a class of one text twice; a topic with one class takes any negative."""
    rows = [*({**row, "topic": "A"} for row in ROWS[:6]), {"text": "lone", "topic": "B", "kind": "B"},
            *({"text": "twice", "topic": "C", "kind": "C"} for _ in range(2))]  # fmt: skip
    with pytest.warns(UserWarning, match="3 of 9 train texts"):
        found = texts(written(tmp_path, rows), near="topic", val_fraction=0.0)
    assert len(found) == 6
    assert {negative for _, _, negative in found} <= {"lone", "twice"}
    with pytest.raises(ConfigError, match="two classes"):
        texts(written(tmp_path, ROWS[:6]), val_fraction=0.0)


def test_a_list_is_no_text(tmp_path: Path) -> None:
    for column in ("text", "kind"):
        with pytest.raises(ConfigError, match=f"a text in '{column}', not a list or an object; see row 2 of"):
            texts(written(tmp_path, [ROWS[0], {**ROWS[1], column: ["a"]}, *ROWS[2:]]))


def test_triplet_accuracy_by_hand() -> None:
    """The first negative is nearer than the positive, the second one farther, the third one as far: 1.5 of 3."""
    anchor, positive = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]])
    negatives = torch.tensor([[[2.0, 1.0], [-1.0, 0.0], [1.0, -1.0]]])
    assert triplet_accuracy(Vectors(anchor, positive, negatives)).item() == 0.5


def test_training_tells_the_kinds_apart(tmp_path: Path) -> None:
    """Learned from triplets, the accuracy on triplets of new texts rises; it is logged."""
    torch.manual_seed(0)
    made = SentenceEmbedding(BERT, Triplet(), optimizer=lambda p: torch.optim.AdamW(p, lr=3e-3))
    data = LabelTriplets(written(tmp_path), target="kind", near="topic", batch_size=8, val_fraction=0.25)
    trainer = pl.Trainer(max_epochs=12, accelerator="cpu", logger=False, enable_progress_bar=False,
                         enable_model_summary=False, enable_checkpointing=False)  # fmt: skip
    before = trainer.validate(made, data, verbose=False)[0]["val/triplet_accuracy"]
    trainer.fit(made, datamodule=data)
    assert before < 0.9 < trainer.callback_metrics["val/triplet_accuracy"]
