"""What the callback says of two ways to prefill, against arithmetic."""

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from lit_ft.callbacks import PrefillCost
from lit_ft.core.errors import ConfigError
from lit_ft.data import Digits, Instructions
from lit_ft.language.prepack import padded_prefill
from lit_ft.methods import ImageClassifier, SupervisedFineTuning

LLAMA = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
         "num_attention_heads": 4, "tokenizer": "bytes"}  # fmt: skip


def quiet_trainer(callback: Any) -> pl.Trainer:
    return pl.Trainer(
        logger=False, accelerator="cpu", callbacks=callback, enable_checkpointing=False, enable_progress_bar=False
    )


def test_tokens_are_those_of_the_packing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_FT_CACHE", str(tmp_path / "cache"))
    lengths = [30, 10, 10, 10, 15, 15]
    rows = [{"prompt": "x" * length, "completion": "yes"} for length in lengths]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "train.jsonl").write_text(json.dumps(rows[0]))
    data = Instructions(str(tmp_path / "train.jsonl"), test_path=str(tmp_path / "r.jsonl"), val_fraction=0.0)
    module = SupervisedFineTuning({"config": LLAMA})  # type: ignore[arg-type]
    trainer = quiet_trainer(PrefillCost(rounds=1))
    found = trainer.test(module, data, verbose=False)[0]
    assert found["prefill/tokens"] == 90, "three rows of 30"
    assert found["prefill/token_ratio"] == 6 * 30 / 90
    assert found["prefill/difference"] < 1e-5
    assert found["prefill/time_ratio"] > 0


def test_padded_prefill_is_one_prompt_after_another() -> None:
    torch.manual_seed(0)
    module = SupervisedFineTuning({"config": LLAMA})  # type: ignore[arg-type]
    module.configure_model()
    network: Any = module.network.eval()  # type: ignore[union-attr]
    prompts = [[9, 8, 7, 6], [5], [40, 41]]
    done = padded_prefill(network, prompts)
    with torch.no_grad():
        alone = torch.cat([network(torch.tensor([prompt])).logits[:, -1] for prompt in prompts])
    torch.testing.assert_close(done.logits, alone, rtol=1e-4, atol=1e-5)
    assert done.processed == 12


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="rounds"):
        PrefillCost(rounds=0)
    images = ImageClassifier({"config": {"model_type": "mlp", "width": 4, "depth": 1}})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="input_ids and weights"):
        quiet_trainer(PrefillCost()).test(images, Digits(), verbose=False)
