"""DPO on tiny networks: TRL's values through the whole path, references, windows, resume."""

import json
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import yaml
from lightning.pytorch.plugins import Precision

from lit_ft.callbacks import WarmStart
from lit_ft.core.errors import ConfigError
from lit_ft.data import Preferences, UnpairedPreferences
from lit_ft.methods import DPO, AdapterOff, CachedLogProbs, FrozenCopy
from lit_ft.models.byte_tokenizer import byte_tokenizer
from lit_ft.preference.paired import IPO, PreferenceLoss, SimPO
from lit_ft.preference.policy import without_dropout
from lit_ft.preference.reference import row_keys, sequence_log_probs
from lit_ft.running.processes import run_ranks
from lit_ft.testing import assert_resumes

CONFIG = {
    "model_type": "llama", "tokenizer": "bytes", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
LORA = {"class_path": "peft.LoraConfig", "init_args": {"r": 2, "target_modules": "all-linear"}}
ROWS = [{"prompt": f"q{i} ", "chosen": "yes" * (1 + i % 3), "rejected": "no" * (1 + i % 4)} for i in range(8)]


def test_beta_beside_a_loss_that_has_its_own_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"beta: given 0.5; allowed: nothing beside loss: IPO has arguments of its own"
    ):
        DPO({"config": CONFIG}, loss=IPO(), beta=0.5)


def table(folder: Path, rows: list[dict[str, Any]] = ROWS) -> str:
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def fit(
    method: DPO, folder: Path, steps: int = 3, batch_size: int = 4, resume: str | None = None, **trainer: Any
) -> pl.Trainer:
    runner = pl.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        log_every_n_steps=1, default_root_dir=folder, **{"enable_checkpointing": False, **trainer},
    )  # fmt: skip
    runner.fit(method, datamodule=Preferences(table(folder), batch_size=batch_size, val_fraction=0.0), ckpt_path=resume)
    return runner


def dpo(adapter: bool = False, **arguments: Any) -> DPO:
    torch.manual_seed(0)
    network = {"config": dict(CONFIG), "peft": LORA if adapter else None}
    method = DPO(network, optimizer=lambda params: torch.optim.SGD(params, lr=0.1), **arguments)
    method.configure_model()
    return method


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_FT_CACHE", str(tmp_path / "cache"))


def trl_batch() -> dict[str, torch.Tensor]:
    ids = torch.tensor([
        [57, 27, 51, 59, 29, 5, 19, 2, 0, 0, 0], [51, 9, 42, 54, 19, 61, 37, 48, 2, 0, 0],
        [56, 22, 33, 25, 40, 60, 61, 16, 35, 11, 2], [57, 27, 51, 59, 35, 34, 28, 61, 53, 2, 0],
        [51, 9, 42, 54, 54, 41, 60, 12, 2, 0, 0], [56, 22, 33, 25, 21, 11, 2, 0, 0, 0, 0],
    ])  # fmt: skip
    weights = (ids != 0).float()
    weights[:, :4] = 0
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "weights": weights, "pair_weights": torch.ones(3)}


def trl_network(seed: int) -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=63, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return LlamaForCausalLM(config)


@pytest.mark.parametrize(("loss", "value"), [(None, 0.7035670), (IPO(0.1), 25.1360245), (IPO(0.1, False), 27.191736)])
def test_equals_trl_from_tokens_to_loss(loss: PreferenceLoss | None, value: float) -> None:
    """The batch, networks and values of tests/core/test_preferences.py, by way of hidden states and chunks."""
    method = DPO(trl_network(0), loss=loss, reference=FrozenCopy())
    method.configure_model()
    method.reference._copy = trl_network(1)  # type: ignore[union-attr]
    output = method.compute(trl_batch())
    assert output.loss.item() == pytest.approx(value, rel=2e-6)
    assert output.scalars["logp/chosen"].item() == pytest.approx(-22.424874, rel=1e-6)


def test_chosen_and_rejected_of_a_pair_share_their_prompt_when_cut(tmp_path: Path) -> None:
    rows = [{"prompt": "abcdefghij", "chosen": "XY", "rejected": "UVWXYZ"}] * 2
    data = Preferences(table(tmp_path, rows), max_length=14, val_fraction=0.0)
    data.trainer = type("T", (), {"lightning_module": dpo()})()
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    text = [
        data.tokenizer.decode(ids[mask.bool()])
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    assert text[0] == "aefghijXY</s>"
    assert text[2] == "aefghijUVWXYZ</s>"
    targets = [data.tokenizer.decode(ids[w > 0]) for ids, w in zip(batch["input_ids"], batch["weights"], strict=True)]
    assert targets[0] == "XY</s>"
    assert targets[2] == "UVWXYZ</s>"


def test_predicted_rows_keep_the_budget_of_tokens(tmp_path: Path) -> None:
    """They were cut by the number of rows alone; a pair is two texts."""
    rows = [
        {"prompt": "ab", "chosen": "c" * (1 + number % 7), "rejected": "de" * (1 + number % 3)} for number in range(20)
    ]

    def predicted(**budget: Any) -> list[dict[str, torch.Tensor]]:
        data = Preferences(table(tmp_path, rows), val_fraction=0.0, **budget)
        data.trainer = type("T", (), {"lightning_module": dpo()})()
        data.setup("predict")
        return list(data.predict_dataloader())

    batches, singles = predicted(tokens_per_batch=120), predicted(batch_size=1)
    assert all(batch["input_ids"].numel() <= 120 for batch in batches)
    numbers = [number for batch in batches for number in batch["rows"].chunk(2)[0].tolist()]
    assert numbers == [int(batch["rows"][0]) for batch in singles] == list(range(20))
    assert len(batches) < len(singles)


def test_a_long_answer_leaves_the_prompt_half_of_the_room(tmp_path: Path) -> None:
    """It took all of it, so that half of real pairs at 512 tokens were answers to nothing."""
    rows = [{"prompt": prompt, "chosen": "n" * 30, "rejected": "Y"} for prompt in ("abcdefghijklm", "abc")]
    pairs = prepared(tmp_path, rows, max_length=10).pairs["train"]
    decode = byte_tokenizer().decode
    found = {tuple(decode(side["input_ids"]) for side in pairs[i][:2]) for i in range(2)}
    assert found == {("ajklmnnnnn", "ajklmY</s>"), ("abcnnnnnnn", "abcY</s>")}


def test_equal_answers_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [ROWS[0], {"prompt": "p", "chosen": "same", "rejected": "same"}, ROWS[1]]
    with pytest.warns(UserWarning, match="1 of 3 train pairs have equal answers and are left out: rows 2"):
        made = prepared(tmp_path, rows)
    assert len(made.pairs["train"]) == 2
    assert sorted(made.numbers["train"]) == [1, 3]
    with pytest.raises(ConfigError, match="two different answers in some train row; all are equal"):
        prepared(tmp_path, rows[1:2] * 2)
    data = UnpairedPreferences(table(tmp_path, rows), val_fraction=0.0)
    data.trainer = SimpleNamespace(lightning_module=dpo())  # type: ignore[assignment]
    with pytest.warns(UserWarning, match="1 of 3 train pairs have equal answers"):
        data.setup("fit")
    assert len(data.labels["train"]) == 4


def prepared(folder: Path, rows: list[dict[str, Any]], **arguments: Any) -> Preferences:
    data = Preferences(table(folder, rows), val_fraction=0.0, **arguments)
    data.trainer = SimpleNamespace(lightning_module=dpo())  # type: ignore[assignment]
    data.setup("fit")
    return data


def test_answers_with_equal_tokens_and_those_cut_equal_are_counted(tmp_path: Path) -> None:
    said = {"role": "assistant", "content": "a"}
    alike = {"prompt": [{"role": "user", "content": "q"}], "chosen": "a", "rejected": [said]}
    with pytest.warns(UserWarning, match="1 of 9 train pairs are left out: both answers have the same tokens"):
        assert len(prepared(tmp_path, [*ROWS, alike]).pairs["train"]) == 8
    long = {"prompt": "q ", "chosen": "a" * 30 + "b", "rejected": "a" * 30 + "c"}
    with pytest.warns(UserWarning, match="1 of 9 train pairs are left out"):
        assert len(prepared(tmp_path, [*ROWS, long], max_length=20).pairs["train"]) == 8
    with pytest.raises(ConfigError, match=r"max_length: given 20; .* no train pair keeps two answers"):
        prepared(tmp_path, [long, long], max_length=20)
    with pytest.raises(ConfigError, match=r"max_length: given 2; .* of train rows (\d, ){4}\d \.\.\. are all cut off"):
        prepared(tmp_path, ROWS, max_length=2)


def test_errors_in_messages_name_the_row_and_not_the_side(tmp_path: Path) -> None:
    said = [{"role": "user", "content": "q"}]
    rows = [{"prompt": said, "chosen": f"a{i}", "rejected": "b"} for i in range(3)]
    rows[2] = {**rows[2], "chosen": [{"role": "bot", "content": "a"}]}
    with pytest.raises(ConfigError, match=r"in row 3$"):
        prepared(tmp_path, rows)


@pytest.mark.parametrize("side", ["chosen", "rejected"])
@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("empty", ["", "\n", [{"role": "assistant", "content": ""}]])
def test_an_empty_answer_is_counted_and_its_end_is_learned(side: str, chat: bool, empty: Any, tmp_path: Path) -> None:
    said = [{"role": "user", "content": "q"}] if isinstance(empty, list) else "q"
    rows = [*ROWS, {"prompt": said, "chosen": "yes", "rejected": "no", side: empty}]
    with pytest.warns(UserWarning, match="1 train rows have an empty answer.*: rows 9"):
        data = prepared(tmp_path, rows, chat=chat)
    pairs = data.pairs["train"]
    example = min((pairs[i][side == "rejected"] for i in range(9)), key=lambda e: int(e["weights"].sum()))
    text = data.tokenizer.decode(example["input_ids"][example["weights"] != 0])
    assert text.strip() == "</s>"
    assert example["input_ids"].tolist().count(data.tokenizer.eos_token_id) == (2 if chat or said != "q" else 1)
    assert example["weights"][-3:].any()  # the end of the answer, not that of the user's turn


@pytest.mark.parametrize("template", [True, False])
def test_texts_are_a_chat_where_the_tokenizer_has_a_template_for_it(template: bool, tmp_path: Path) -> None:
    found = []
    for chat in (None, template):
        data = Preferences(table(tmp_path), val_fraction=0.0, chat=chat)
        method = dpo()
        method.tokenizer.chat_template = method.tokenizer.chat_template if template else None
        data.trainer = SimpleNamespace(lightning_module=method)  # type: ignore[assignment]
        data.setup("fit")
        found.append([data.examples["train"][i]["input_ids"].tolist() for i in range(16)])
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ["dpo", "kto", "reward_model", "unpaired_bco"])
def test_configs_of_preferences_read_any_model_folder(name: str) -> None:
    config = yaml.safe_load((Path(__file__).parents[2] / f"configs/preference/{name}.yaml").read_text())
    assert config["data"]["init_args"].get("chat", False) in (None, False)


def test_conversations_that_begin_differently_name_the_row(tmp_path: Path) -> None:
    row = {
        side: [{"role": "user", "content": side}, {"role": "assistant", "content": "a"}]
        for side in ("chosen", "rejected")
    }
    with pytest.raises(ConfigError, match="conversations that begin alike; those of train row 9 do not"):
        prepared(tmp_path, [*ROWS, row])


def test_an_answer_without_a_message_names_the_row(tmp_path: Path) -> None:
    said = [{"role": "user", "content": "q"}]
    reply = [{"role": "assistant", "content": "a"}]
    for row in ({"prompt": said, "chosen": "a", "rejected": []}, {"chosen": said + reply, "rejected": said}):
        with pytest.raises(ConfigError, match="at least one message behind the prompt in 'rejected'; train row 9"):
            prepared(tmp_path, [*ROWS, row])


@pytest.mark.parametrize(
    ("value", "column"),
    [("high", "filter_column"), (None, "filter_column"), (float("inf"), "weight_column"), (-1, "weight_column")],
)
def test_scores_and_weights_that_are_no_numbers_name_the_row(value: Any, column: str, tmp_path: Path) -> None:
    rows = [{**row, "s": 1.0} for row in ROWS]
    rows[4]["s"] = value
    more = {"drop_highest": 0.5} if column == "filter_column" else {}
    with pytest.raises(ConfigError, match="row 5" if value is not None else "row 5 it is empty"):
        prepared(tmp_path, rows, **{column: "s"}, **more)


def test_the_filter_drops_the_highest(tmp_path: Path) -> None:
    rows = [{**row, "ches": float(i)} for i, row in enumerate(ROWS)]
    data = Preferences(table(tmp_path, rows), val_fraction=0.0, filter_column="ches", drop_highest=0.5, batch_size=8)
    data.trainer = type("T", (), {"lightning_module": dpo()})()
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    seen = sorted(data.tokenizer.decode(ids[:2]) for ids in batch["input_ids"][: len(batch["pair_weights"])])
    assert seen == ["q0", "q1", "q2", "q3"]


@pytest.mark.parametrize("reference", [AdapterOff, FrozenCopy, CachedLogProbs])
def test_first_loss_is_log_two_and_all_references_train_alike(reference: type, tmp_path: Path) -> None:
    method = dpo(adapter=True, reference=reference())
    start = {name: p.clone() for name, p in method.named_parameters()}
    losses = []
    method._follow_window = lambda output, weight, batch_idx: losses.append(output.loss.item())  # type: ignore[method-assign]
    fit(method, tmp_path)
    assert losses[0] == pytest.approx(0.6931472, abs=2e-7)
    other = dpo(adapter=True, reference=FrozenCopy())
    fit(other, tmp_path)
    moved = 0
    for (name, ours), theirs in zip(method.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
        assert "lora_" in name or torch.equal(ours, start[name])
        moved += not torch.equal(ours, start[name])
    assert moved


@pytest.mark.parametrize(
    ("precision", "reference", "adapter"),
    [
        ("bf16-mixed", CachedLogProbs, False),
        ("bf16-true", AdapterOff, True),
        ("bf16-true", CachedLogProbs, False),
        ("bf16-true", FrozenCopy, False),
    ],
)
def test_in_bf16_the_reference_starts_equal_and_resumes(
    precision: str, reference: type, adapter: bool, tmp_path: Path
) -> None:
    """From a folder in float32: Lightning brings it to bf16 only after a checkpoint has been looked at."""
    source = dpo()
    source.network.save_pretrained(tmp_path / "net")  # type: ignore[union-attr, operator]
    source.tokenizer.save_pretrained(tmp_path / "net")
    losses: list[float] = []

    def make() -> DPO:
        network = {"path": str(tmp_path / "net"), "peft": LORA if adapter else None}
        made = DPO(network, reference=reference())  # type: ignore[arg-type]
        follow = made._follow_window
        made._follow_window = lambda *given: (losses.append(given[0].loss.item()), follow(*given))  # type: ignore
        return made

    def data() -> Preferences:
        return Preferences(table(tmp_path), batch_size=4, val_fraction=0.0)

    assert_resumes(
        pl.Callback, tmp_path / "runs", crash_at=3, make_module=make, make_data=data, max_epochs=2, precision=precision
    )
    assert losses[0] == pytest.approx(0.6931472, abs=2e-7)


def test_accumulation_equals_one_batch_with_pair_weights(tmp_path: Path) -> None:
    rows = [{**row, "w": 0.5 + i % 3} for i, row in enumerate(ROWS)]
    found = []
    for size, parts in ((8, 1), (2, 4)):
        method = dpo(sft_weight=0.3)
        data = Preferences(table(tmp_path, rows), batch_size=size, val_fraction=0.0, weight_column="w")
        pl.Trainer(
            max_steps=1, accumulate_grad_batches=parts, accelerator="cpu", logger=False, enable_progress_bar=False,
            enable_model_summary=False, enable_checkpointing=False,
        ).fit(method, datamodule=data)  # fmt: skip
        found.append(torch.cat([p.detach().flatten() for p in method.parameters()]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-7)
    assert not torch.equal(found[0], torch.cat([p.detach().flatten() for p in dpo().parameters()]))


def test_reference_free_losses_make_no_copy(tmp_path: Path) -> None:
    method = dpo(loss=SimPO())
    assert method.reference is None
    fit(method, tmp_path, steps=1)


def test_cached_values_of_other_weights_are_refused(tmp_path: Path) -> None:
    file = str(tmp_path / "reference.pt")
    fit(dpo(reference=CachedLogProbs(file)), tmp_path, steps=1)
    fit(dpo(reference=CachedLogProbs(file)), tmp_path, steps=1)
    method = dpo(reference=CachedLogProbs(file))
    with torch.no_grad():
        next(method.network.parameters()).add_(1.0)  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="log-probabilities of the weights"):
        fit(method, tmp_path, steps=1)


def test_keys_of_rows_do_not_depend_on_padding() -> None:
    batch = trl_batch()
    wider = {name: torch.nn.functional.pad(t, (0, 3)) if t.dim() == 2 else t for name, t in batch.items()}
    assert row_keys(batch, "32-true") == row_keys(wider, "32-true")
    assert not set(row_keys(batch, "32-true")) & set(row_keys(batch, "bf16-mixed"))
    batch["weights"][0, 6] = 0.5
    assert row_keys(batch, "32-true")[0] != row_keys(wider, "32-true")[0]


def test_adapter_off_is_refused_without_adapter_or_beside_other_weights() -> None:
    with pytest.raises(ConfigError, match="adapter"):
        dpo(reference=AdapterOff())
    method = dpo(adapter=True)
    method.network.get_base_model().lm_head.weight.requires_grad_(True)  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="beside the adapter"):
        AdapterOff().attach(method.network)


def test_resume_keeps_the_reference_of_the_start(tmp_path: Path) -> None:
    whole = dpo(reference=FrozenCopy())
    start = [p.clone() for p in whole.parameters()]
    fit(whole, tmp_path, steps=4, batch_size=8)
    first = dpo(reference=FrozenCopy())
    path = str(tmp_path / "first.ckpt")
    fit(first, tmp_path, steps=2, batch_size=8).save_checkpoint(path)
    again = dpo(reference=FrozenCopy())
    fit(again, tmp_path, steps=4, batch_size=8, resume=path)
    for ours, theirs in zip(again.reference._copy.parameters(), start, strict=True):  # type: ignore[union-attr]
        assert torch.equal(ours, theirs)
    for ours, theirs in zip(whole.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
    other = dpo(reference=FrozenCopy())
    with torch.no_grad():
        next(other.network.parameters()).add_(1.0)  # type: ignore[union-attr]
    other.reference.attach(other.network)  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="reference"):
        fit(other, tmp_path, steps=4, batch_size=8, resume=path)


@pytest.mark.parametrize("reference", [FrozenCopy, CachedLogProbs])
def test_a_run_that_began_from_other_weights_is_validated_and_goes_on(reference: type, tmp_path: Path) -> None:
    def method() -> DPO:
        return dpo(reference=reference(str(tmp_path / "r.pt")) if reference is CachedLogProbs else reference())

    warm, path = method(), str(tmp_path / "first.ckpt")
    with torch.no_grad():
        next(warm.network.parameters()).mul_(2.0)  # type: ignore[union-attr]
    torch.save({"state_dict": warm.state_dict()}, tmp_path / "warm.ckpt")
    start = [WarmStart(tmp_path / "warm.ckpt")]
    whole, first, again = method(), method(), method()
    fit(whole, tmp_path, steps=4, batch_size=8, callbacks=start)
    saved = fit(first, tmp_path, steps=2, batch_size=8, callbacks=start)
    saved.save_checkpoint(path)
    fit(again, tmp_path, steps=4, batch_size=8, resume=path)
    for ours, theirs in zip(whole.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)

    data = Preferences(table(tmp_path), batch_size=8, val_path=table(tmp_path))
    evaluate = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
    (here,) = evaluate.validate(first, datamodule=data, verbose=False)
    (there,) = evaluate.validate(method(), datamodule=data, ckpt_path=path, verbose=False)
    assert there["val/loss"] == pytest.approx(here["val/loss"], rel=1e-6) != pytest.approx(0.6931472, abs=1e-3)


def test_checkpoints_keep_of_a_reference_what_a_warm_start_brought_alone(tmp_path: Path) -> None:
    method, path = dpo(reference=FrozenCopy()), str(tmp_path / "first.ckpt")
    fit(method, tmp_path, steps=1).save_checkpoint(path)
    assert torch.load(path, weights_only=True)["reference_weights"] == {}


def test_an_adapter_that_is_trained_already_is_no_part_of_the_reference_and_that_is_said(tmp_path: Path) -> None:
    method = dpo(adapter=True, reference=AdapterOff())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        method.reference.start(method.network, None, fresh=True)  # type: ignore[union-attr]
    with torch.no_grad():
        for name, parameter in method.network.named_parameters():  # type: ignore[union-attr]
            parameter.add_(1.0 if "lora_B" in name else 0.0)
    with pytest.warns(UserWarning, match="FrozenCopy the reference is where training starts"):
        method.reference.start(method.network, None, fresh=True)  # type: ignore[union-attr]


def test_a_file_of_something_else_is_no_cache(tmp_path: Path) -> None:
    (tmp_path / "reference.pt").write_text("something else")
    with pytest.raises(ConfigError, match=r"reference\.path"):
        fit(dpo(reference=CachedLogProbs(str(tmp_path / "reference.pt"))), tmp_path, steps=1)


def test_log_probs_equal_the_plain_form() -> None:
    network, batch = trl_network(0), trl_batch()
    logits = network(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    plain = logits.log_softmax(-1)[:, :-1].gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
    torch.testing.assert_close(sequence_log_probs(network, batch), (plain * batch["weights"][:, 1:]).sum(1))


def test_cached_values_are_float32_where_the_default_is_bf16() -> None:
    reference = CachedLogProbs()
    batch = {"input_ids": torch.arange(4)[None], "weights": torch.ones(1, 4), "attention_mask": torch.ones(1, 4).long()}
    reference._precision = "bf16-true"
    reference._values = dict.fromkeys(row_keys(batch, "bf16-true"), -100.3)
    batch["weights"] = batch["weights"].bfloat16()  # as Lightning brings it to a step
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = reference.log_probs(torch.nn.Linear(1, 1), batch)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype is torch.float32
    assert found.item() == pytest.approx(-100.3, rel=1e-6)


def _row(number: int) -> dict[str, torch.Tensor]:
    ids = torch.full((1, 3), number)
    return {"input_ids": ids, "weights": torch.ones(1, 3), "attention_mask": torch.ones_like(ids), "rows": ids[:, 0]}


def _cached_on_a_rank(path: str) -> list[float]:
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    module: Any = sys.modules[CachedLogProbs.__module__]
    module._batches = lambda data: [_row(rank)]
    module.sequence_log_probs = lambda network, batch: -batch["input_ids"].sum(1).float()
    torch.manual_seed(0)
    network, reference = torch.nn.Linear(1, 1), CachedLogProbs(path)
    reference.attach(network)
    trainer = SimpleNamespace(
        datamodule=None, world_size=2, is_global_zero=rank == 0, precision="32-true", precision_plugin=Precision()
    )
    reference.start(network, trainer, fresh=True)
    found = [reference.log_probs(network, _row(number)).item() for number in (0, 1)]
    torch.distributed.destroy_process_group()
    return found


def test_each_rank_knows_the_cached_values_of_all(tmp_path: Path) -> None:
    file = tmp_path / "cached.pt"
    assert run_ranks(_cached_on_a_rank, 2, str(file)) == [[0.0, -3.0]] * 2
    assert sorted(torch.load(file, weights_only=True)["values"].tolist()) == [-3.0, 0.0]


def _stubbed(
    path: str | None, monkeypatch: pytest.MonkeyPatch, rows: list[int], meanwhile: Any = None
) -> CachedLogProbs:
    """A reference that has computed the values of some rows; something else may happen in the midst of it."""
    module: Any = sys.modules[CachedLogProbs.__module__]

    def values(network: Any, batch: Any) -> torch.Tensor:
        if meanwhile is not None:
            meanwhile()
        return -batch["input_ids"].sum(1).float()

    monkeypatch.setattr(module, "_batches", lambda data: [_row(number) for number in rows])
    monkeypatch.setattr(module, "sequence_log_probs", values)
    torch.manual_seed(0)
    network, reference = torch.nn.Linear(1, 1), CachedLogProbs(path)
    reference.attach(network)
    trainer: Any = SimpleNamespace(
        datamodule=None, world_size=1, is_global_zero=True, precision="32-true", precision_plugin=Precision()
    )
    reference.start(network, trainer, fresh=True)
    return reference


def test_two_runs_at_once_keep_the_values_of_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "shared.pt"
    other = partial(_stubbed, str(file), monkeypatch, [3, 4])
    _stubbed(str(file), monkeypatch, [1, 2], meanwhile=lambda: file.exists() or other())
    assert sorted(torch.load(file, weights_only=True)["values"].tolist()) == [-12.0, -9.0, -6.0, -3.0]


def test_many_writers_lose_nothing(tmp_path: Path) -> None:
    module: Any = sys.modules[CachedLogProbs.__module__]
    file = tmp_path / "shared.pt"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: module._add(file, "of one base", {number: 0.5}), range(32)))
    assert set(module._read(file, "of one base")) == set(range(32))


def test_damaged_values_are_not_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_FT_CACHE", str(tmp_path))
    _stubbed(None, monkeypatch, [1, 2])
    (file,) = (tmp_path / "reference").glob("*.pt")
    content = bytearray(file.read_bytes())
    place = content.index(torch.tensor([-3.0, -6.0]).numpy().tobytes())
    content[place + 3] ^= 1
    file.write_bytes(content)
    with pytest.warns(UserWarning, match="is damaged"):
        assert sorted(_stubbed(None, monkeypatch, [1, 2])._values.values()) == [-6.0, -3.0]
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="damaged"):
        _stubbed(str(file), monkeypatch, [1, 2])


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("LoHaConfig", {"rank_dropout": 0.5, "module_dropout": 0.5}),
        ("LoKrConfig", {"rank_dropout": 0.5, "module_dropout": 0.5}),
        ("OFTConfig", {"module_dropout": 0.5, "r": 2, "oft_block_size": 0}),
        ("LoraConfig", {"lora_dropout": 0.5}),
    ],
)
def test_dropouts_of_adapters_are_off(kind: str, options: dict[str, Any]) -> None:
    peft = pytest.importorskip("peft")
    network = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Dropout1d(0.5))
    adapted = peft.get_peft_model(network, getattr(peft, kind)(target_modules=["0"], **options))
    for parameter in adapted.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    inputs = torch.ones(1, 8)
    before = [adapted.train()(inputs) for _ in range(8)]
    without_dropout(adapted)
    after = [adapted.train()(inputs) for _ in range(8)]
    assert all(torch.equal(one, after[0]) for one in after)
    assert not all(torch.equal(one, before[0]) for one in before)
