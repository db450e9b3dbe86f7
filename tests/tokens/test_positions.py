"""No text is longer than the positions of the network: refused in one line, before the first step."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest

from lit_ft.core.errors import ConfigError
from lit_ft.core.network import Network
from lit_ft.data import (
    AnswerOptions,
    Instructions,
    LabelledText,
    LabelTriplets,
    Mixture,
    Preferences,
    StreamedInstructions,
    TextPairs,
    UnpairedPreferences,
)
from lit_ft.methods import DPO, KTO, OptionScoring, RewardModel, SentenceEmbedding, SupervisedFineTuning, TextClassifier
from lit_ft.models import bare_encoder, causal_lm
from lit_ft.tokens.positions import positions

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
ROTARY = {"config": {"model_type": "llama", "tokenizer": "bytes", "max_position_embeddings": 32, **SIZES}}
LEARNED = {"config": {"model_type": "bert", "tokenizer": "bytes", "max_position_embeddings": 32, **SIZES}}


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_FT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    long = "a" * 60
    for name, row in {
        "texts": {"text": f"{{}} {long}", "kind": "{}"},
        "said": {"prompt": "{}?", "completion": long},
        "pairs": {"prompt": "{}?", "chosen": long, "rejected": "b" * 60},
        "anchors": {"anchor": "{}", "positive": long},
        "options": {"prompt": f"{{}} {long}", "answer": "{}"},
    }.items():
        rows = [{key: value.format(i % 2 if key in ("kind", "answer") else i) for key, value in row.items()}
                for i in range(8)]  # fmt: skip
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def fit(module: Any, data: Any) -> None:
    pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, max_steps=1,
               enable_checkpointing=False, limit_val_batches=0).fit(module, data)  # fmt: skip


PAIRS = {
    "labelled": (
        partial(TextClassifier, num_classes=2),
        lambda n: LabelledText("texts.jsonl", label="kind", max_length=n),
    ),
    "pairs": (SentenceEmbedding, lambda n: TextPairs("anchors.jsonl", max_length=n, batch_size=2)),
    "triplets": (SentenceEmbedding, lambda n: LabelTriplets("texts.jsonl", target="kind", max_length=n, batch_size=2)),
    "instructions": (SupervisedFineTuning, lambda n: Instructions("said.jsonl", max_length=n)),
    "packed": (SupervisedFineTuning, lambda n: Instructions("said.jsonl", max_length=n, packing=True)),
    "streamed": (SupervisedFineTuning, lambda n: StreamedInstructions("said.jsonl", 1, max_length=n)),
    "mixture": (SupervisedFineTuning, lambda n: Mixture({"one": Instructions("said.jsonl", max_length=n)})),
    "preferences": (DPO, lambda n: Preferences("pairs.jsonl", max_length=n)),
    "rewards": (RewardModel, lambda n: Preferences("pairs.jsonl", max_length=n)),
    "unpaired": (KTO, lambda n: UnpairedPreferences("pairs.jsonl", max_length=n, val_fraction=0.0)),
    "options": (
        OptionScoring,
        lambda n: AnswerOptions("options.jsonl", max_length=n, options={"0": "no", "1": "yes"}),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_longer_texts_than_positions_are_refused(name: str) -> None:
    method, data = PAIRS[name]
    both = name in ("labelled", "pairs", "triplets")
    for network in (ROTARY, LEARNED) if both else (ROTARY,):
        with pytest.raises(ConfigError, match=r"max_length: given 33; allowed: 32 tokens or less, the positions of"):
            fit(method(network), data(33))
        made = method(network)
        made.configure_model()  # a network that is there before the data
        with pytest.raises(ConfigError, match="max_length: given 33"):
            fit(made, data(33))


@pytest.mark.parametrize("length", [20, 40])
def test_a_default_is_no_choice_and_what_counts_is_the_longest_text(length: int) -> None:
    Path("said.jsonl").write_text("".join(json.dumps({"text": "a" * length}) + "\n" for _ in range(8)))
    data = Instructions("said.jsonl", val_fraction=0.0)
    if length < 32:
        fit(SupervisedFineTuning(ROTARY), data)
    else:
        with pytest.raises(ConfigError, match="max_length: given 41; allowed: 32 tokens or less"):
            fit(SupervisedFineTuning(ROTARY), data)


def test_the_template_counts_and_so_does_a_text_that_is_encoded() -> None:
    with pytest.raises(ConfigError, match=r"max_length: given \d\d"):
        fit(SentenceEmbedding(ROTARY), TextPairs("anchors.jsonl", max_length=24, template="echo", batch_size=2))
    model = SentenceEmbedding(ROTARY)
    assert model.encode(["a" * 32]).shape == (1, 16)
    with pytest.raises(ConfigError, match="max_length: given 33"):
        model.encode(["a" * 33])


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "gpt2", "n_positions": 40, "n_embd": 8, "n_head": 2, "n_layer": 1}, 40),
        ({"model_type": "llama", **SIZES, "max_position_embeddings": 40}, 40),
        (
            {"model_type": "llama", **SIZES, "max_position_embeddings": 40,
             "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}}, 160,
        ),
        (
            {"model_type": "llama", **SIZES, "max_position_embeddings": 160,
             "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0,
                                 "original_max_position_embeddings": 40}}, 160,
        ),
        ({"model_type": "bloom", "hidden_size": 16, "n_layer": 1, "n_head": 2}, None),
    ],
    ids=["learned", "rotary", "linear", "yarn", "alibi"],
)  # fmt: skip
def test_positions_by_hand(config: dict[str, Any], expected: int | None) -> None:
    assert positions(causal_lm(Network(config={**config, "vocab_size": 20}))) == expected


def test_roberta_counts_from_behind_its_padding() -> None:
    config = {"model_type": "roberta", "vocab_size": 20, "pad_token_id": 1, "max_position_embeddings": 34, **SIZES}
    encoder = bare_encoder(Network(config=config))
    assert positions(encoder) == 32
    import torch

    encoder(torch.full((1, 32), 5))
    with pytest.raises((IndexError, RuntimeError)):
        encoder(torch.full((1, 33), 5))


def test_tokens_of_an_adapter_take_positions() -> None:
    peft = {"class_path": "PromptTuningConfig", "init_args": {"num_virtual_tokens": 5, "task_type": "CAUSAL_LM"}}
    assert positions(causal_lm(Network(config=ROTARY["config"], peft=peft))) == 27
