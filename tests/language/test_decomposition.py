"""Pieces of documents: contiguous, of the allowed lengths, and nothing lost but short ends."""

import json
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest

from lit_ft.core.errors import ConfigError
from lit_ft.language.decomposition import DatasetDecomposition, bucket_plan, decompose
from lit_ft.language.joined_text import JoinedText
from lit_ft.language.supervised_fine_tuning import SupervisedFineTuning

LLAMA = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
         "num_attention_heads": 2, "tokenizer": "bytes"}  # fmt: skip


def test_pieces_against_brute_force() -> None:
    for length in range(1, 400):
        pieces, left = decompose(length, 3, 6), length
        for piece in pieces:
            assert piece == max(2**k + 1 for k in range(3, 7) if 2**k + 1 <= left)
            left -= piece
        assert left < 2**3 + 1


@pytest.mark.parametrize("curriculum", ["uniform", "grow", "strict"])
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
    assert (falls == 1) == (curriculum == "strict"), "it begins again once, with the second cycle"


def test_grow_draws_lengths_by_odds() -> None:
    """Odds of a length are its batches in the cycle / its length, constant until it is used up: four batches of pieces
    of 4 tokens and one of 8 are drawn 8 : 1, in each cycle anew."""
    lengths, cycles, seeds = [5] * 16 + [9] * 2, 2, 1500
    found: Counter[int] = Counter()
    for seed in range(seeds):
        plan = bucket_plan(lengths, 8, "grow", cycles, seed)(0)
        order = [lengths[batch[0]] for batch in plan]
        for cycle in (order[:5], order[5:]):
            found[cycle.index(9)] += 1
            assert sorted(cycle) == [5, 5, 5, 5, 9]
    share = [(8 / 9) ** place / 9 for place in range(4)]
    for place, wanted in enumerate([*share, 1 - sum(share)]):
        error = (wanted * (1 - wanted) / (cycles * seeds)) ** 0.5
        assert abs(found[place] / (cycles * seeds) - wanted) < 4 * error


def test_odds_of_three_lengths_are_times_their_tokens() -> None:
    lengths, seeds = [5] * 8 + [9] * 8 + [17] * 4, 2000  # 2, 4 and 4 batches of 16 tokens
    drawn = (lengths[bucket_plan(lengths, 16, "grow", seed=seed)(0)[0][0]] for seed in range(seeds))
    first = Counter(drawn)
    odds = {5: 2 / 4, 9: 4 / 8, 17: 4 / 16}
    for length, weight in odds.items():
        wanted = weight / sum(odds.values())
        assert abs(first[length] / seeds - wanted) < 4 * (wanted * (1 - wanted) / seeds) ** 0.5


def ready(data: Any, folder: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("LIT_FT_CACHE", str(folder / "cache"))
    (folder / "r.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    module = SupervisedFineTuning({"config": LLAMA})  # type: ignore[arg-type]
    data.trainer = pl.Trainer(logger=False, accelerator="cpu", enable_checkpointing=False)
    data.trainer.strategy._lightning_module = module
    data.setup("fit")
    return module.tokenizer


def test_joined_pieces_are_the_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [chr(65 + i) * (10 + 7 * i) for i in range(9)]
    data = JoinedText(str(tmp_path / "r.jsonl"), context=31, tokens_per_batch=64, val_fraction=0.0)
    said: list[str] = []
    monkeypatch.setattr("lit_ft.language.document_pieces.rank_zero_info", said.append)
    words = ready(data, tmp_path, texts, monkeypatch)
    pieces = [words.decode(piece["input_ids"]) for piece in data.examples["train"]]
    *whole, cut = "".join(pieces).split("</s>")
    assert len(set(whole)) == len(whole) >= len(texts) - 3
    assert set(whole) <= set(texts)
    assert any(text.startswith(cut) for text in set(texts) - set(whole))
    length = sum(len(text) + 1 for text in texts)
    assert len(pieces) == length // 32
    assert f"{length % 32} of {length} tokens are in none" in said[0]
    batch = next(iter(data.train_dataloader()))
    assert batch["input_ids"].shape == (2, 32)
    assert batch["weights"].tolist() == [[0.0] + [1.0] * 31] * 2
    with pytest.raises(ConfigError, match="context"):
        ready(JoinedText(str(tmp_path / "r.jsonl"), 600, tokens_per_batch=600), tmp_path, texts, monkeypatch)


def test_pieces_are_of_one_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [chr(65 + i) * (10 + 7 * i) for i in range(20)]
    data = DatasetDecomposition(str(tmp_path / "r.jsonl"), 3, 6, tokens_per_batch=64, val_fraction=0.0)
    words = ready(data, tmp_path, texts, monkeypatch)
    table = data.examples["train"]
    for piece in (table[i] for i in range(len(table))):
        text = words.decode(piece["input_ids"]).replace("</s>", "")
        assert len(set(text)) == 1
        assert piece["weights"].tolist() == [0] + [1] * (len(piece["weights"]) - 1)
    assert sum(table.lengths) == sum(sum(decompose(len(text) + 1, 3, 6)) for text in texts)
    with pytest.raises(ConfigError, match="tokens_per_batch"):
        DatasetDecomposition("x", 3, 6, tokens_per_batch=63)
