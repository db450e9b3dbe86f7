"""Pieces of documents: contiguous, of the allowed lengths, and nothing lost but short ends."""

import json
import random
from itertools import pairwise
from pathlib import Path

import lightning.pytorch as pl
import pytest

from lit_ft.core.errors import ConfigError
from lit_ft.data.decomposition import DatasetDecomposition, bucket_plan, decompose
from lit_ft.methods.supervised_fine_tuning import SupervisedFineTuning

LLAMA = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
         "num_attention_heads": 2, "tokenizer": "bytes"}  # fmt: skip


def test_pieces_against_brute_force() -> None:
    for length in range(1, 400):
        pieces, left = decompose(length, 3, 6), length
        for piece in pieces:
            assert piece == max(2**k + 1 for k in range(3, 7) if 2**k + 1 <= left)
            left -= piece
        assert left < 2**3 + 1


@pytest.mark.parametrize("curriculum", ["uniform", "grow"])
def test_every_batch_has_one_length_and_the_same_tokens(curriculum: str) -> None:
    draw = random.Random(0)
    lengths = [draw.choice([9, 17, 33]) for _ in range(300)]
    plan = bucket_plan(lengths, 64, curriculum, cycles=2, seed=1)
    first, second = plan(0), plan(1)
    assert first == plan(0)
    assert first != second
    assert len(first) == len(second)
    for epoch in (first, second):
        assert sorted(i for batch in epoch for i in batch) == list(range(300))
        assert all(len({lengths[i] for i in batch}) == 1 for batch in epoch)
        assert all(len(batch) * (lengths[batch[0]] - 1) <= 64 for batch in epoch)
    order = [lengths[batch[0]] for batch in first]
    falls = sum(b < a for a, b in pairwise(order))
    assert (falls == 1) == (curriculum == "grow"), "grow begins again once, with the second cycle"


def test_pieces_are_of_one_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_FT_CACHE", str(tmp_path / "cache"))
    rows = [{"text": chr(65 + i) * (10 + 7 * i)} for i in range(20)]
    (tmp_path / "r.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    module = SupervisedFineTuning({"config": LLAMA})  # type: ignore[arg-type]
    data = DatasetDecomposition(str(tmp_path / "r.jsonl"), 3, 6, tokens_per_batch=64, val_fraction=0.0)
    data.trainer = pl.Trainer(logger=False, accelerator="cpu", enable_checkpointing=False)
    data.trainer.strategy._lightning_module = module
    data.setup("fit")
    table = data.examples["train"]
    for piece in (table[i] for i in range(len(table))):
        text = module.tokenizer.decode(piece["input_ids"]).replace("</s>", "")
        assert len(set(text)) == 1
        assert piece["weights"].tolist() == [0] + [1] * (len(piece["weights"]) - 1)
    assert sum(table.lengths) == sum(sum(decompose(len(row["text"]) + 1, 3, 6)) for row in rows)
    with pytest.raises(ConfigError, match="tokens_per_batch"):
        DatasetDecomposition("x", 3, 6, tokens_per_batch=63)
