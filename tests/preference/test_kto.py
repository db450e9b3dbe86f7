"""KTO on tiny networks: TRL's values through the whole path, borrowed answers, the divergence of two ranks, resume."""

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from lit_ft.core.errors import ConfigError
from lit_ft.data import UnpairedPreferences
from lit_ft.methods import KTO, AdapterOff, CachedLogProbs, FrozenCopy
from lit_ft.preference.reference import row_keys
from lit_ft.running.processes import run_ranks

CONFIG = {
    "model_type": "llama", "tokenizer": "bytes", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
LORA = {"class_path": "peft.LoraConfig", "init_args": {"r": 2, "target_modules": "all-linear"}}
ROWS = [
    {"prompt": f"q{i // 2} ", "completion": ("yes" if i % 2 else "no") * (1 + i % 3), "label": i % 2 == 1}
    for i in range(8)
]


def table(folder: Path, rows: list[dict[str, Any]] = ROWS) -> str:
    path = folder / "answers.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def method(adapter: bool = False, lr: float = 0.1, **arguments: Any) -> KTO:
    torch.manual_seed(0)
    network = {"config": dict(CONFIG), "peft": LORA if adapter else None}
    made = KTO(network, optimizer=lambda params: torch.optim.SGD(params, lr=lr), **arguments)  # type: ignore[arg-type]
    made.configure_model()
    return made


def fit(made: KTO, folder: Path, steps: int = 3, batch_size: int = 4, **trainer: Any) -> pl.Trainer:
    runner = pl.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=folder, **trainer,
    )  # fmt: skip
    runner.fit(made, datamodule=UnpairedPreferences(table(folder), batch_size=batch_size, val_fraction=0.0))
    return runner


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_FT_CACHE", str(tmp_path / "cache"))


def trl_batch() -> dict[str, torch.Tensor]:
    """The rows of TRL's values for pairs; each prompt borrows the next answer."""
    rows = [
        [57, 27, 51, 59, 29, 5, 19, 2], [51, 9, 42, 54, 19, 61, 37, 48, 2],
        [56, 22, 33, 25, 40, 60, 61, 16, 35, 11, 2], [57, 27, 51, 59, 35, 34, 28, 61, 53, 2],
        [51, 9, 42, 54, 54, 41, 60, 12, 2], [56, 22, 33, 25, 21, 11, 2],
    ]  # fmt: skip
    rows += [rows[i][:4] + rows[(i + 1) % 6][4:] for i in range(6)]
    ids = torch.tensor([row + [0] * (11 - len(row)) for row in rows])
    weights = (ids != 0).float()
    weights[:, :4] = 0
    wanted = torch.tensor([True, True, True, False, False, False])
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "weights": weights, "desirable": wanted}


def trl_network(seed: int) -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=63, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return LlamaForCausalLM(config)


@pytest.mark.parametrize(
    ("policy", "weight", "loss", "divergence"),
    [
        (0, 1.0, 0.5025586, 0.0),
        (1, 1.0, 0.4974417, 0.0765184),
        (0, 1.5, 0.6285390, 0.0),
        (1, 1.5, 0.6209834, 0.0765184),
    ],
)
def test_equals_trl(policy: int, weight: float, loss: float, divergence: float) -> None:
    """KTOTrainer of TRL 1.16 in evaluation mode, beta 0.1; with policy 0 the estimate is negative and z is 0."""
    made = KTO(trl_network(policy), undesirable_weight=weight, reference=FrozenCopy())  # type: ignore[arg-type]
    made.configure_model()
    made.reference._copy = trl_network(1 - policy)  # type: ignore[union-attr]
    output = made.compute(trl_batch())
    assert output.loss.item() == pytest.approx(loss, rel=1e-6)
    assert output.scalars["divergence"].item() == pytest.approx(divergence, abs=2e-6)


def test_only_the_answers_themselves_have_a_gradient() -> None:
    """z is a constant: the gradient is that of the losses with z put in as a number."""
    made = KTO(trl_network(1), reference=FrozenCopy())  # type: ignore[arg-type]
    made.configure_model()
    made.reference._copy = trl_network(0)  # type: ignore[union-attr]
    batch = trl_batch()
    output = made.compute(batch)
    output.loss.backward()
    found = [p.grad.clone() for p in made.network.parameters()]  # type: ignore[union-attr]
    made.network.zero_grad()  # type: ignore[union-attr]
    logits = made.network(batch["input_ids"][:6]).logits.log_softmax(-1)[:, :-1]  # type: ignore[misc]
    logp = (logits.gather(-1, batch["input_ids"][:6, 1:, None])[..., 0] * batch["weights"][:6, 1:]).sum(1)
    with torch.no_grad():
        before = made.reference.log_probs(made.network, batch)[:6]  # type: ignore[union-attr, arg-type]
    signed = torch.tensor([1.0, 1, 1, -1, -1, -1]) * (logp - before - output.scalars["divergence"])
    (1 - torch.sigmoid(0.1 * signed)).mean().backward()
    for ours, theirs in zip(found, made.network.parameters(), strict=True):  # type: ignore[union-attr]
        torch.testing.assert_close(ours, theirs.grad, rtol=1e-4, atol=1e-8)


def prepared(folder: Path, rows: list[dict[str, Any]] = ROWS, **arguments: Any) -> UnpairedPreferences:
    data = UnpairedPreferences(table(folder, rows), val_fraction=0.0, **arguments)
    data.trainer = type("T", (), {"lightning_module": method()})()
    data.setup("fit")
    return data


def test_each_prompt_borrows_the_next_answer_to_another_prompt(tmp_path: Path) -> None:
    data = prepared(tmp_path, batch_size=8)
    batch = next(iter(data.train_dataloader()))
    said = [
        data.tokenizer.decode(ids[mask.bool()])
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    table_of = {f"{row['prompt']}{row['completion']}</s>": row for row in ROWS}
    order = [table_of[data.tokenizer.decode(data.examples["train"][i]["input_ids"])] for i in range(8)]
    for place, number in enumerate(batch["rows"].tolist()[:8]):
        own = order[number]
        other = next(row for row in order[number:] + order if row["prompt"] != own["prompt"])
        assert said[place] == f"{own['prompt']}{own['completion']}</s>"
        assert said[8 + place] == f"{own['prompt']}{other['completion']}</s>"
        assert bool(batch["desirable"][place]) == own["label"]
    targets = [data.tokenizer.decode(ids[w > 0]) for ids, w in zip(batch["input_ids"], batch["weights"], strict=True)]
    assert all(text.endswith(target) and "q" not in target for text, target in zip(said, targets, strict=True))
    small = {key for b in prepared(tmp_path, batch_size=1).train_dataloader() for key in row_keys(b, "32-true")}
    assert small == set(row_keys(batch, "32-true"))  # what a batch holds changes nothing in its rows


def test_pairs_are_taken_apart(tmp_path: Path) -> None:
    pairs = [{"prompt": f"q{i} ", "chosen": f"yes{i}", "rejected": f"no{i}"} for i in range(3)]
    batch = next(iter((data := prepared(tmp_path, pairs, batch_size=6)).train_dataloader()))
    for ids, weights, wanted in zip(batch["input_ids"][:6], batch["weights"][:6], batch["desirable"], strict=True):
        assert data.tokenizer.decode(ids[weights > 0]).startswith("yes" if wanted else "no")
    assert batch["desirable"].sum() == 3


def test_a_budget_holds_for_both_halves_and_long_answers_are_cut(tmp_path: Path) -> None:
    rows = [{"prompt": "p" * (1 + i), "completion": "c" * (40 - 4 * i), "label": i % 2} for i in range(9)]
    for batch in prepared(tmp_path, rows, tokens_per_batch=120, max_length=30).train_dataloader():
        assert batch["input_ids"].numel() <= 120
        assert batch["input_ids"].shape[1] <= 30
        assert (batch["weights"].sum(1) > 0).all()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*ROWS, {"prompt": "p", "completion": "c", "label": "maybe"}], "label 'maybe'.*train row"),
        ([{**row, "prompt": "same"} for row in ROWS], "at least two prompts"),
        ([{"prompt": "p", "completion": 3, "label": 1}], "see train row 1"),
        ([*ROWS, {"prompt": "p", "completion": 3, "label": 1}], f"see train row {len(ROWS) + 1}"),
    ],
)
def test_bad_rows_are_named(rows: list[dict[str, Any]], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        prepared(tmp_path, rows)


def test_empty_answers_are_counted_and_kept(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=f"1 train rows have an empty answer.*rows {len(ROWS) + 1}$"):
        data = prepared(tmp_path, [*ROWS, {"prompt": "p", "completion": " ", "label": 0}])
    assert len(data.answers["train"]) == len(ROWS) + 1
    with pytest.raises(ConfigError, match="see train row 1"):
        prepared(tmp_path, [{"prompt": [{"role": "user", "content": "q"}], "completion": [], "label": 0}])


def test_a_length_that_leaves_nothing_to_tell_prompts_apart_is_named(tmp_path: Path) -> None:
    for length, message in ((2, "rows with a target"), (3, "no two prompts of the train rows differ")):
        with pytest.raises(ConfigError, match=f"max_length: given {length}; .*{message}"):
            prepared(tmp_path, ROWS, max_length=length)


@pytest.mark.parametrize("reference", [AdapterOff, CachedLogProbs])
def test_first_loss_is_a_half_and_all_references_train_alike(reference: type, tmp_path: Path) -> None:
    made, losses = method(adapter=True, reference=reference()), []
    made._follow_window = lambda output, weight, batch_idx: losses.append(output.loss.item())  # type: ignore[method-assign]
    fit(made, tmp_path)
    assert losses[0] == pytest.approx(0.5, abs=1e-6)
    other = method(adapter=True, reference=FrozenCopy())
    fit(other, tmp_path)
    for ours, theirs in zip(made.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
    assert any((p != 0).all() for name, p in made.named_parameters() if "lora_B" in name)


def divergences(folder: str, devices: int, batch_size: int) -> list[float]:
    made, found = method(lr=3.0), []
    compute = made.compute

    def watched(batch: Any) -> Any:
        output = compute(batch)
        found.append(output.scalars["divergence"].item())
        return output

    made.compute = watched  # type: ignore[method-assign]
    strategy = {"strategy": "ddp", "devices": devices} if devices > 1 else {}
    fit(made, Path(folder), steps=4, batch_size=batch_size, **strategy)
    return found


@pytest.mark.slow
def test_two_ranks_share_one_divergence(tmp_path: Path) -> None:
    table(tmp_path)
    first, second = run_ranks(divergences, 2, str(tmp_path), 2, 4)
    assert first == second
    assert first == pytest.approx(divergences(str(tmp_path), 1, 8), abs=1e-5)
    assert max(first) > 0.01
