"""Span corruption: every text can be put together again, and spans are as many and as long as was asked for."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lit_ft.core.errors import ConfigError
from lit_ft.data import MixtureOfDenoisers
from lit_ft.language.denoising import UL2, Denoiser, corrupt
from lit_ft.methods import SupervisedFineTuning
from lit_ft.models.byte_tokenizer import byte_tokenizer

LLAMA = {
    "model_type": "llama", "tokenizer": "bytes", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip
TEXTS = [f"text {i} says " + "lorem ipsum dolor "[: 3 + i] * (1 + i % 3) for i in range(20)]


def restored(inputs: list[int], targets: list[int], sentinels: set[int]) -> list[int]:
    """Each sentinel of the inputs replaced by what stands behind it in the targets."""
    spans: dict[int, list[int]] = {}
    current: list[int] = []
    for token in targets:
        if token in sentinels:
            current = spans.setdefault(token, [])
        else:
            current.append(token)
    return [t for token in inputs for t in (spans[token] if token in sentinels else [token])]


@pytest.mark.parametrize("denoiser", [*UL2, Denoiser("R", 0.9, 1.0), Denoiser("S", 0.9)], ids=str)
def test_inputs_and_targets_give_the_text_again(denoiser: Denoiser) -> None:
    draw = np.random.default_rng(0)
    sentinels = [[1000 - i] for i in range(200)]
    for length in [2, 3, 4, 5, *range(6, 300, 7)]:
        text = draw.integers(0, 500, length).tolist()
        spans = denoiser.spans(length, draw)
        inputs, targets = corrupt(text, spans, sentinels)
        assert restored(inputs, targets, {s for (s,) in sentinels}) == text
        edges = [edge for span in spans for edge in span]
        assert edges == sorted(edges)
        assert all(end > start for start, end in spans)
        assert spans[0][0] > 0  # something is read first
        assert all(b[0] > a[1] for a, b in pairwise(spans))
        used = [token for token in inputs if token > 800]
        assert used == [1000 - i for i in range(len(spans))]
        assert len(inputs) + len(targets) == length + 2 * len(spans)
        if denoiser.kind == "S":
            assert len(spans) == 1
            assert spans[0][1] == length


@pytest.mark.parametrize("denoiser", UL2, ids=str)
def test_density_and_lengths_are_those_asked_for(denoiser: Denoiser) -> None:
    draw = np.random.default_rng(1)
    found = [denoiser.spans(512, draw) for _ in range(2000)]
    taken = np.array([sum(end - start for start, end in spans) for spans in found])
    assert taken.mean() / 512 == pytest.approx(denoiser.density, rel=0.03)
    if denoiser.kind != "S":
        assert set(taken.tolist()) == {round(512 * denoiser.density)}
        assert taken.sum() / sum(map(len, found)) == pytest.approx(denoiser.mean_span, rel=0.25)  # whole spans
        held = np.zeros(512)  # every place but the very first is taken about equally often
        for spans in found:
            for start, end in spans:
                held[start:end] += 1
        assert held[60:450].std() / held[60:450].mean() < 0.25


def module() -> SupervisedFineTuning:
    return SupervisedFineTuning({"config": LLAMA})


def rows(folder: Path) -> str:
    path = folder / "texts.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    return str(path)


def data(folder: Path, **arguments: Any) -> MixtureOfDenoisers:
    made = MixtureOfDenoisers(rows(folder), **{"val_fraction": 0.2, "batch_size": 4, **arguments})
    made.trainer = type("T", (), {"lightning_module": module()})()
    made.setup("fit")
    return made


def test_batches_hold_mode_inputs_and_learned_targets(tmp_path: Path) -> None:
    words = byte_tokenizer()
    made = data(tmp_path, denoisers=[Denoiser("X", 0.4, 4.0), Denoiser("S", 0.3, weight=2.0)], sentinel="<{number}>")
    kinds = []
    for batch in made.train_dataloader():
        for ids, weights, mask, row in zip(
            batch["input_ids"], batch["weights"], batch["attention_mask"].bool(), batch["rows"], strict=True
        ):
            first = int(weights.argmax())
            assert torch.equal(weights[mask], (torch.arange(int(mask.sum())) >= first).float())
            assert not weights[~mask].any()
            inputs, targets = words.decode(ids[:first]), words.decode(ids[first : int(mask.sum())])
            assert targets.endswith(words.eos_token)
            kinds.append(inputs[:3])
            inputs, targets = inputs[3:], targets.removesuffix(words.eos_token)
            for number, part in reversed(list(enumerate(_behind_sentinels(targets)))):
                inputs = inputs.replace(f"<{number}>", part)
            table = made.examples["train"]
            assert inputs == words.decode(table[table.rows.tolist().index(int(row))]["input_ids"])
    assert set(kinds) == {"[X]", "[S]"}
    assert kinds.count("[S]") > kinds.count("[X]")


def _behind_sentinels(targets: str) -> list[str]:
    parts, number = [], 0
    while targets:
        targets = targets.removeprefix(f"<{number}>")
        end = targets.find(f"<{number + 1}>")
        part = targets if end < 0 else targets[:end]
        parts.append(part)
        targets, number = targets[len(part) :], number + 1
    return parts


def test_training_is_corrupted_anew_and_evaluation_once(tmp_path: Path) -> None:
    made = data(tmp_path)

    def epochs(loader: Any) -> list[list[str]]:
        found = []
        for epoch in (0, 1):
            loader.sampler.set_epoch(epoch)
            found.append(sorted(str(row.tolist()) for batch in loader for row in batch["input_ids"]))
        return found

    first, second = epochs(made.train_dataloader())
    assert first != second
    assert epochs(made.train_dataloader()) == [first, second]
    fixed, again = epochs(made.val_dataloader())
    assert fixed == again


def test_bad_settings_are_refused(tmp_path: Path) -> None:
    for bad in ({"kind": "T"}, {"density": 1.0}, {"mean_span": 0.5}, {"weight": 0.0}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            Denoiser(**{"kind": "R", "density": 0.5, **bad})
    for bad in ({"denoisers": []}, {"sentinel": "<x>"}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            MixtureOfDenoisers("x", **bad)
