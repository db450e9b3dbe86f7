"""All answers at once equal the last answers of all prefixes; whole examples are dropped."""

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from lit_ft.core.errors import ConfigError
from lit_ft.language.instructions import Instructions
from lit_ft.language.many_shot import ManyShot
from lit_ft.language.supervised_fine_tuning import SupervisedFineTuning
from lit_ft.tokens.segments import Segment, encode
from lit_ft.worlds.permuted_labels import PermutedLabels

LLAMA = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
         "num_attention_heads": 4, "tokenizer": "bytes"}  # fmt: skip


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SupervisedFineTuning:
    monkeypatch.setenv("LIT_FT_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    made = SupervisedFineTuning({"config": LLAMA})  # type: ignore[arg-type]
    made.configure_model()
    return made


def ready(module: Any, data: Any, rows: list[dict[str, Any]] | None = None) -> Any:
    if rows is not None:
        Path(data.source.path).write_text("\n".join(json.dumps(row) for row in rows))
    trainer = pl.Trainer(logger=False, accelerator="cpu", enable_checkpointing=False)
    trainer.strategy._lightning_module = module
    data.trainer = trainer
    data.setup("fit")
    return data


def rows(n: int) -> list[dict[str, Any]]:
    return [{"prompt": f"q{i}", "completion": "yes" * (1 + i % 3), "task": "ab"[i % 2]} for i in range(n)]


def test_all_answers_are_the_last_answers_of_all_prefixes(module: Any, tmp_path: Path) -> None:
    data = ready(module, ManyShot(str(tmp_path / "r.jsonl"), shots=4, val_fraction=0.0, sequences=1), rows(4))
    batch = next(iter(data.train_dataloader()))
    parameters = list(module.parameters())

    def summed(one: Any) -> Any:
        return module.compute(one).loss * module.loss_weight(one)

    whole = torch.autograd.grad(summed(batch), parameters)
    weights = batch["weights"][0]
    ends = [i for i in range(len(weights)) if weights[i] and (i + 1 == len(weights) or not weights[i + 1])]
    assert len(ends) == 4
    parts = [torch.zeros_like(p) for p in parameters]
    last = -1
    for end in ends:
        own = weights.clone()
        own[: last + 1] = 0
        one = {"input_ids": batch["input_ids"][:, : end + 1], "weights": own[None, : end + 1]}
        for part, gradient in zip(parts, torch.autograd.grad(summed(one), parameters), strict=True):
            part += gradient
        last = end
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_sequences_are_of_one_task_and_drop_whole_examples(module: Any, tmp_path: Path) -> None:
    data = ManyShot(
        str(tmp_path / "r.jsonl"), shots=4, max_length=22, task_column="task", val_fraction=0.0, sequences=9
    )
    ready(module, data, rows(12))
    for example in data.examples["train"]:
        text = module.tokenizer.decode(example["input_ids"])
        assert text.startswith("q")
        numbers = [int(part.split("\n")[0]) for part in text.split("q")[1:]]
        assert {n % 2 for n in numbers} == {"ab".index(data.task_names[example["task"]])}
        assert 1 <= len(numbers) < 4
        assert len(example["input_ids"]) <= 22
    with pytest.raises(ConfigError, match=r"shots.*6"):
        ready(module, ManyShot(str(tmp_path / "r.jsonl"), shots=7, task_column="task", val_fraction=0.0))


def test_last_learns_one_answer(module: Any, tmp_path: Path) -> None:
    data = ManyShot(str(tmp_path / "r.jsonl"), shots=3, supervise="last", val_fraction=0.0)
    example = ready(module, data, rows(3)).examples["train"][0]
    learned = module.tokenizer.decode(example["input_ids"][example["weights"] > 0])
    assert module.tokenizer.decode(example["input_ids"]).endswith("\n" + learned)
    assert learned.count("\n\n") == 1


def test_evaluation_asks_for_the_last_answer(module: Any, tmp_path: Path) -> None:
    """Whatever is learned, so that runs that learn different answers are compared on the same."""
    data = ready(module, ManyShot(str(tmp_path / "r.jsonl"), shots=3, val_fraction=0.5), rows(12))
    learned = {split: table[0]["weights"] for split, table in data.examples.items()}
    text = module.tokenizer.decode(data.examples["val"][0]["input_ids"][learned["val"] > 0])
    assert text.count("\n\n") == 1
    assert module.tokenizer.decode(data.examples["train"][0]["input_ids"][learned["train"] > 0]).count("\n\n") == 3


def test_permuted_labels_are_told_by_the_context_alone(module: Any) -> None:
    data = ready(module, PermutedLabels(classes=4, shots=12, sequences=200, eval_sequences=20))
    mappings = []
    for example in data.examples["train"]:
        text = module.tokenizer.decode(example["input_ids"])
        pairs = set(zip(text[::2], text[1::2], strict=True))
        assert len(pairs) == len(dict(pairs)) == len({label for _, label in pairs}), "one label a symbol, and back"
        mappings.append(dict(pairs).get("a"))
        assert example["weights"].tolist() == [0.0, 1.0] * 12
    counts = [mappings.count(label) for label in "0123"]
    assert min(counts) > 25, "the symbol alone says nothing of the label"
    assert {tuple(e["weights"].tolist()) for e in data.examples["val"]} == {(0.0,) * 23 + (1.0,)}


def test_response_tuning_is_instruction_tuning_without_the_question(module: Any, tmp_path: Path) -> None:
    """E89: the turn of the user stays, its text is gone, and what is learned is the same."""
    template = [Segment("", "user"), Segment("{completion}", "assistant", 1.0)]
    path = str(tmp_path / "r.jsonl")
    response = ready(module, Instructions(path, template=template, chat=True, val_fraction=0.0), rows(3))
    normal = ready(module, Instructions(path, chat=True, val_fraction=0.0))
    words = module.tokenizer
    for a, b in zip(response.examples["train"], normal.examples["train"], strict=True):
        texts = [words.decode(x["input_ids"][x["weights"] > 0]) for x in (a, b)]
        assert texts[0] == texts[1]
        assert texts[0].endswith("</s>")
        without = words.decode(b["input_ids"]).split("\n", 1)[1].split("</s>", 1)[1]
        assert words.decode(a["input_ids"]) == "<s>user\n</s>" + without
    assert len(encode(words, [Segment("x")])) == 1


def test_what_is_wrong_in_a_row_is_said_with_its_number(module: Any, tmp_path: Path) -> None:
    """It was the number of a sequence."""
    template = [{"text": "{prompt}"}, {"text": "{completion}", "weight": 1}]
    given = rows(9)
    del given[6]["completion"]
    with pytest.raises(ConfigError, match="row 7 has: prompt, task"):
        ready(module, ManyShot(str(tmp_path / "r.jsonl"), template=template, shots=2, val_fraction=0.0), given)  # type: ignore[arg-type]
