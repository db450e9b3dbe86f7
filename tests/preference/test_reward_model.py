"""Reward models on tiny networks: transformers' values, the right token, pair weights, what is learned."""

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.nn import functional as F

from lit_ft.core.errors import ConfigError
from lit_ft.data import Preferences
from lit_ft.methods import RewardModel
from lit_ft.preference.reward_model import rewards

CONFIG = {
    "model_type": "llama", "tokenizer": "bytes", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
LORA = {"class_path": "peft.LoraConfig", "init_args": {"r": 2, "target_modules": "all-linear"}}
ROWS = [{"prompt": f"q{i} ", "chosen": "yes" * (1 + i % 3), "rejected": "no" * (1 + i % 4)} for i in range(8)]


def model(peft: dict[str, Any] | None = None, lr: float = 0.05, **arguments: Any) -> RewardModel:
    torch.manual_seed(0)
    network: Any = {"config": dict(CONFIG), "peft": peft}
    made = RewardModel(network, optimizer=lambda params: torch.optim.Adam(params, lr=lr), **arguments)
    made.configure_model()
    return made


def table(folder: Path) -> str:
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(json.dumps({**row, "w": 0.5 + i % 3}) for i, row in enumerate(ROWS)))
    return str(path)


def fit(made: RewardModel, folder: Path, batch_size: int = 8, **trainer: Any) -> Preferences:
    data = Preferences(table(folder), batch_size=batch_size, val_fraction=0.0, weight_column="w")
    pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=folder, **trainer,
    ).fit(made, datamodule=data)  # fmt: skip
    return data


def batch_of(rows: list[list[int]], padding: int) -> dict[str, torch.Tensor]:
    longest = max(map(len, rows))
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    ids = torch.tensor([row + [padding] * (longest - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": mask, "pair_weights": torch.tensor([1.0, 3.0])}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_FT_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_equals_transformers_and_the_loss_by_hand(kind: str) -> None:
    names = {"gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2}}
    sizes = names.get(
        kind, {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    )
    made = RewardModel({"config": {"model_type": kind, "tokenizer": "bytes", **sizes}}, margin=0.3, center=0.1)  # type: ignore[arg-type]
    made.configure_model()
    network: Any = made.network.eval()  # type: ignore[union-attr]
    batch = batch_of([[5, 6, 7], [8, 9, 10, 11, 12], [5, 6, 13, 14], [8, 9]], network.config.pad_token_id)
    plain = network(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0]
    torch.testing.assert_close(rewards(network, batch), plain)
    first, second = plain[:2], plain[2:]
    each = -F.logsigmoid(first - second - 0.3) + 0.1 * (first + second) ** 2
    assert made.compute(batch).loss.item() == pytest.approx(((each[0] + 3 * each[1]) / 4).item(), rel=1e-5)


@pytest.mark.parametrize("peft", [None, LORA])
def test_reads_the_last_token_also_where_it_pads(peft: dict[str, Any] | None) -> None:
    """An answer ends with the token that pads: the reward is that of the row alone, whatever stands behind it."""
    network: Any = model(peft).network
    network.config.pad_token_id = 2
    rows = [[5, 6, 7, 2], [8, 9, 10, 11, 12, 2], [5, 6, 2], [8, 9, 2]]
    together = rewards(network, batch_of(rows, 2))
    alone = torch.cat([rewards(network, batch_of([row], 2)) for row in rows])
    torch.testing.assert_close(together, alone)
    shifted = rewards(network, batch_of([row[:-1] for row in rows], 2))
    assert (together - shifted).abs().min() > 1e-4


def test_learns_which_answer_is_better(tmp_path: Path) -> None:
    made = model()
    data = fit(made, tmp_path, max_steps=40)
    found = made.compute(next(iter(data.train_dataloader())))
    assert found.scalars["rewards/accuracy"] == 1
    assert found.loss < 0.1


def test_accumulation_equals_one_batch(tmp_path: Path) -> None:
    weights = []
    for size, parts in ((8, 1), (2, 4)):
        torch.manual_seed(0)
        network: Any = {"config": dict(CONFIG)}
        made = RewardModel(network, center=0.1, optimizer=lambda params: torch.optim.SGD(params, lr=0.1))
        fit(made, tmp_path, size, max_steps=1, accumulate_grad_batches=parts)
        weights.append(torch.cat([p.detach().flatten() for p in made.parameters()]))
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-5, atol=1e-7)


def test_an_adapter_leaves_the_base_alone_and_trains_the_head(tmp_path: Path) -> None:
    made = model(LORA)
    start = {name: p.clone() for name, p in made.named_parameters()}
    fit(made, tmp_path, max_steps=2)
    moved = {name for name, p in made.named_parameters() if not torch.equal(p, start[name])}
    assert any("score" in name for name in moved)
    assert all("lora_" in name or "modules_to_save" in name for name in moved)


def test_tokens_in_front_are_refused() -> None:
    prefix = {"class_path": "peft.PromptTuningConfig", "init_args": {"num_virtual_tokens": 2}}
    with pytest.raises(ConfigError, match="prompt learning"):
        model(prefix)
