"""The gradient of a window of ragged examples, packing, two processes, and what a batch holds."""

import json
import random
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

from lit_ft.core.errors import ConfigError
from lit_ft.core.passes.double_backward import differentiable_twice
from lit_ft.language.instructions import Instructions
from lit_ft.language.supervised_fine_tuning import SupervisedFineTuning
from lit_ft.tokens.bins import best_fit
from lit_ft.tokens.losses import weighted_cross_entropy
from lit_ft.tokens.network import readout
from lit_ft.tokens.packing import check_packing

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA = {"model_type": "llama", **SIZES, "max_position_embeddings": 256, "tokenizer": "bytes"}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_FT_CACHE", str(tmp_path / "cache"))


def ragged(n: int, seed: int = 0) -> list[dict[str, Any]]:
    draw = random.Random(seed)

    def words(k: int) -> str:
        return " ".join(draw.choice(["red", "green", "blue", "stone", "river"]) for _ in range(k))

    return [{"prompt": words(draw.randint(1, 6)), "completion": " " + words(draw.choice([1, 1, 9]))} for _ in range(n)]


def table(folder: Path, rows: list[dict[str, Any]]) -> str:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def method(config: dict[str, Any] = LLAMA, **arguments: Any) -> SupervisedFineTuning:
    torch.manual_seed(0)
    made = SupervisedFineTuning({"config": config}, optimizer=lambda p: torch.optim.SGD(p, lr=0.1), **arguments)  # type: ignore[arg-type]
    made.configure_model()
    return made


def trainer(**arguments: Any) -> pl.Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return pl.Trainer(**{"accelerator": "cpu", "max_epochs": 1, **quiet, **arguments})


def set_up(module: pl.LightningModule, data: Instructions) -> Instructions:
    runner = trainer()
    runner.strategy._lightning_module = module
    data.trainer = runner
    data.setup("fit")
    return data


class InOrder(Instructions):
    """Batches in the order of the rows, so that windows of different shapes hold the same examples."""

    def _buckets(self, split: str) -> Any:
        count = len(self.examples[split])
        return lambda epoch: [list(range(i, min(i + self.batch_size, count))) for i in range(0, count, self.batch_size)]


def weights_after(path: str, batch: int, accumulate: int, reduction: str = "token", **arguments: Any) -> list[Tensor]:
    module = method(reduction=reduction)
    data = InOrder(path, batch_size=batch, val_fraction=0.0, max_length=64)
    trainer(accumulate_grad_batches=accumulate, max_epochs=2, **arguments).fit(module, datamodule=data)
    return [parameter.detach() for parameter in module.parameters()]


@pytest.mark.parametrize("reduction", ["token", "sequence"])
def test_a_window_is_one_batch(tmp_path: Path, reduction: str) -> None:
    """accumulate=4, batch=2 equals accumulate=1, batch=8: ragged answers, clipping, and a short last window."""
    path = table(tmp_path, ragged(21))
    small = weights_after(path, 2, 4, reduction, gradient_clip_val=0.5)
    large = weights_after(path, 8, 1, reduction, gradient_clip_val=0.5)
    for a, b in zip(small, large, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    start = [p.detach() for p in method().parameters()]
    assert max((a - b).abs().max().item() for a, b in zip(small, start, strict=True)) > 1e-2


def _on_two_ranks(path: str, cache: str, accumulate: int) -> list[Tensor]:
    import os

    os.environ["LIT_FT_CACHE"] = cache
    torch.set_num_threads(1)
    settings = {"devices": 2, "strategy": "ddp", "gradient_clip_val": 0.5}
    return weights_after(path, 2, accumulate, **settings)


def test_two_ranks_are_one_batch(tmp_path: Path) -> None:
    from lit_ft.running.processes import run_ranks

    path = table(tmp_path, ragged(24, seed=1))
    ranks = run_ranks(_on_two_ranks, 2, path, str(tmp_path / "cache"), 2)
    alone = weights_after(path, 8, 1, gradient_clip_val=0.5)
    for found in ranks:
        for a, b in zip(found, alone, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_one_loss_for_padded_packed_and_plain(tmp_path: Path) -> None:
    """Padding, packing, hidden states and whole logits: four ways to one number, and to one gradient."""
    rows = ragged(9)
    module = method()
    path = table(tmp_path, rows)
    padded = set_up(module, Instructions(path, batch_size=9, val_fraction=0.0, max_length=96))
    packed = set_up(module, Instructions(path, batch_size=9, val_fraction=0.0, max_length=96, packing=True))
    one, two = next(iter(padded.train_dataloader())), next(iter(packed.train_dataloader()))
    assert "attention_mask" not in two
    assert len(two["input_ids"]) < 9
    assert sorted(one["rows"].tolist()) == sorted(two["rows"].tolist()) == list(range(9))
    assert module.loss_weight(one) == module.loss_weight(two)
    module.eval()
    logits = module.network(input_ids=one["input_ids"], attention_mask=one["attention_mask"]).logits  # type: ignore[misc]
    plain = weighted_cross_entropy(logits, one["input_ids"], one["weights"])
    values = [module.compute(one).loss, module.compute(two).loss]
    with differentiable_twice():
        values.append(module.compute(one).loss)
    parameters = list(module.parameters())
    expected = torch.autograd.grad(plain, parameters)
    for value in values:
        assert value.item() == pytest.approx(plain.item(), rel=1e-5)
        for a, b in zip(torch.autograd.grad(value, parameters), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("model_type", ["gpt2", "qwen2", "gpt_neox", "gemma2"])
def test_other_networks(model_type: str) -> None:
    """Hidden states times head are the logits, or it is noticed that they are not (gemma2 caps them)."""
    gpt2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    config = {"model_type": model_type, "tokenizer": "bytes", **(gpt2 if model_type == "gpt2" else SIZES)}
    if model_type == "qwen2":
        config["num_key_value_heads"] = 2
    if model_type == "gemma2":
        config |= {"head_dim": 8, "num_key_value_heads": 4, "final_logit_softcapping": 0.05}
    module = method(config).eval()
    ids = torch.randint(10, 200, (2, 12))
    said = readout(module.network, {"input_ids": ids})  # type: ignore[arg-type]
    assert (said.weight is None) == (model_type == "gemma2")
    expected = module.network(input_ids=ids).logits.log_softmax(-1)[:, :-1].gather(2, ids[:, 1:, None])[..., 0]  # type: ignore[misc]
    torch.testing.assert_close(said.log_probs(ids, torch.ones(2, 12))[:, 1:], expected, rtol=1e-4, atol=1e-4)
    assert check_packing(module.network, 200) < 1e-4  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["PromptTuningConfig", "PrefixTuningConfig", "LoraConfig"])
def test_adapters_say_what_their_network_says(kind: str) -> None:
    """Those of prompt tuning have more logits than the batch has tokens."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    settings = {"r": 2, "target_modules": "all-linear"} if kind == "LoraConfig" else {"num_virtual_tokens": 3}
    network = {
        "config": LLAMA,
        "peft": {"class_path": f"peft.{kind}", "init_args": {**settings, "task_type": "CAUSAL_LM"}},
    }
    made = SupervisedFineTuning(network)  # type: ignore[arg-type]
    made.configure_model()
    assert isinstance(made.network, peft.PeftModel)
    for parameter in made.trainable_parameters().values():
        parameter.data.normal_()
    ids = torch.randint(0, 250, (2, 9))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "weights": torch.ones(2, 9)}
    logits = made.network(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    extra = logits.shape[1] - 9
    assert extra == (3 if kind == "PromptTuningConfig" else 0)
    expected = torch.nn.functional.cross_entropy(logits[:, extra:-1].flatten(0, 1), ids[:, 1:].flatten())
    found = made.compute(batch).loss
    torch.testing.assert_close(found, expected)
    found.backward()
    assert all(p.grad is not None and p.grad.any() for p in made.trainable_parameters().values())


def test_a_network_that_leaks_is_refused() -> None:
    class Leaky(torch.nn.Module):
        """Reads the mean of all that came before, whatever the positions say."""

        def __init__(self) -> None:
            super().__init__()
            self.words = torch.nn.Embedding(50, 8)

        def forward(self, input_ids: Tensor, position_ids: Tensor | None = None, use_cache: bool = False) -> Any:
            logits = self.words(input_ids).cumsum(1) @ self.words.weight.t()
            return type("Output", (), {"logits": logits})

    with pytest.raises(ConfigError, match="packing"):
        check_packing(Leaky(), 50)


def test_an_encoder_is_refused_as_it_sees_what_it_is_to_predict() -> None:
    ids = torch.arange(5, 17)[None]
    bert = {"model_type": "bert", **SIZES, "tokenizer": "bytes"}
    with pytest.raises(ConfigError, match="a token sees those behind it"):
        readout(method(bert).network, {"input_ids": ids})  # type: ignore[arg-type]
    readout(method({**bert, "is_decoder": True}).network, {"input_ids": ids})  # type: ignore[arg-type]
    readout(method().network.bfloat16(), {"input_ids": ids})  # type: ignore[union-attr]


def test_best_fit() -> None:
    draw = random.Random(0)
    for _ in range(50):
        capacity = draw.randint(8, 40)
        lengths = [draw.randint(1, capacity) for _ in range(draw.randint(1, 60))]
        rows = best_fit(lengths, capacity)
        assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
        assert all(sum(lengths[i] for i in row) <= capacity for row in rows)
        slow: list[int] = []  # the same by brute force: room left in each row
        for length in sorted(lengths, reverse=True):
            fitting = [r for r in slow if r >= length]
            if fitting:
                slow[slow.index(min(fitting))] -= length
            else:
                slow.append(capacity - length)
        assert len(rows) == len(slow)
    with pytest.raises(ConfigError, match="capacity"):
        best_fit([9], 8)


def test_rows_without_a_target_are_counted(tmp_path: Path) -> None:
    rows = [*ragged(4), {"prompt": "x" * 80, "completion": "never seen"}]
    data = Instructions(table(tmp_path, rows), max_length=64, val_fraction=0.0)
    order = [int(n) for n in __import__("numpy").random.default_rng(0).permutation(5)]
    with pytest.warns(UserWarning, match="1 of 5 train examples have no target.*rows 5$"):
        set_up(method(), data)
    assert sorted(data.examples["train"].rows.tolist()) == sorted(i for i in range(5) if order[i] != 4)
    with pytest.raises(ConfigError, match="rows with a target"):
        set_up(method(), Instructions(table(tmp_path, rows[-1:]), max_length=64, val_fraction=0.0))


def test_messages_name_rows_of_the_table_and_not_of_the_split(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]} for _ in range(20)]
    for place in (4, 13):
        wrong = [dict(row) for row in rows]
        wrong[place] = {"messages": [{"role": "bot", "content": "a"}]}
        with pytest.raises(ConfigError, match=f"in row {place + 1}$"):
            set_up(method(), Instructions(table(tmp_path, wrong), val_fraction=0.5))


def test_forms_of_rows(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "one", "weight": 0.5}]},
        {"prompt": "p", "completion": " two"},
        {"text": "three"},
        {"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "four"}]},
    ]
    module = method()
    data = set_up(module, Instructions(table(tmp_path, rows), val_fraction=0.0))
    found = {}
    for example in data.examples["train"]:  # type: ignore[attr-defined]
        learned = module.tokenizer.decode(example["input_ids"][example["weights"] != 0])
        found[learned] = example["weights"].max().item()
    assert found == {"one</s>": 0.5, " two</s>": 1, "hree</s>": 1, "four</s>": 1}
    with pytest.raises(ConfigError, match="row 1 has question"):
        set_up(module, Instructions(table(tmp_path, [{"question": "x"}]), val_fraction=0.0))


def test_weights_and_tasks_of_rows(tmp_path: Path) -> None:
    rows = [{"q": "a", "a": "b", "w": -0.25, "task": "code"}, {"q": "c", "a": "d", "w": 2, "task": "chat"}]
    module = method(reduction="task", task_weights={"code": 3.0})
    template = [{"text": "{q}"}, {"text": "{a}", "weight": 0.5}]
    data = Instructions(
        table(tmp_path, rows), template=template, weight_column="w", task_column="task", val_fraction=0.0
    )  # type: ignore[arg-type]
    batch = next(iter(set_up(module, data).train_dataloader()))
    order = batch["tasks"].tolist()
    assert data.task_names == ["chat", "code"]
    assert batch["weights"][:, 1].tolist() == [{1: -0.125, 0: 1.0}[task] for task in order]
    module._trainer = data.trainer
    data.trainer.datamodule = data  # type: ignore[union-attr]
    assert module.loss_weight(batch) == 4
    assert module._shares(batch)[0][:, 1].tolist() == pytest.approx([{1: -0.75, 0: 0.25}[task] for task in order])
    module.task_weights = {"code": 0.1}
    torch.set_default_dtype(torch.bfloat16)  # as under bf16-true
    try:
        found = module.importance(torch.device("cpu"))
    finally:
        torch.set_default_dtype(torch.float32)
    assert found is not None
    assert found.tolist() == torch.tensor([1.0, 0.1]).tolist()


def test_perplexity_is_that_of_the_tokens(tmp_path: Path) -> None:
    rows = ragged(11)
    module = method(reduction="sequence", label_smoothing=0.1)
    module.network.lm_head.weight.data *= 30  # type: ignore[union-attr, operator]  far from uniform
    data = Instructions(table(tmp_path, rows), val_fraction=0.5, batch_size=2)
    runner = trainer()
    runner.validate(module, datamodule=data, verbose=False)
    total, count = 0.0, 0.0
    for example in data.examples["val"]:  # type: ignore[attr-defined]
        ids = example["input_ids"][None]
        log_probs = module.network(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]  # type: ignore[misc]
        total -= (log_probs * example["weights"][1:]).sum().item()
        count += example["weights"].sum().item()
    assert runner.callback_metrics["val/perplexity"].item() == pytest.approx(
        torch.tensor(total / count).exp().item(), rel=1e-4
    )
    assert runner.callback_metrics["val/loss"].item() != pytest.approx(total / count, rel=1e-3)


def test_wrong_values(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="task_weights"):
        method(task_weights={"code": 1.0})
    with pytest.raises(ConfigError, match="truncation"):
        Instructions("x", truncation="middle")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"train_on.*asistant"):
        Instructions("x", train_on=["asistant"])
    with pytest.raises(ConfigError, match=r"template\.weight"):
        Instructions("x", template=[{"text": "{a}"}])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match=r"template\.role"):
        Instructions("x", template=[{"text": "{a}", "role": "robot", "weight": 1}], chat=True)  # type: ignore[list-item]
