"""Mixtures: shares in closed form, every row before any comes again, the same batches after a resume."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lit_ft.core.errors import ConfigError
from lit_ft.data import Instructions, Mixture, MixtureOfDenoisers
from lit_ft.language.mixture import mixture_counts, mixture_plan, passes
from lit_ft.methods import SupervisedFineTuning

LLAMA = {
    "model_type": "llama", "tokenizer": "bytes", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip


def test_shares_in_closed_form() -> None:
    assert mixture_counts([10, 30, 60]) == [10, 30, 60]
    assert mixture_counts([10, 30, 60], total=10) == [1, 3, 6]
    assert mixture_counts([10, 1000, 60], cap=60) == [10, 60, 60]
    assert mixture_counts([1, 4, 16], total=70, temperature=2.0) == [10, 20, 40]
    assert mixture_counts([1, 100], total=10, temperature=1e9) == [5, 5]
    assert mixture_counts([10, 10], total=9, weights=[2.0, 1.0]) == [6, 3]
    for total in range(1, 40):
        assert sum(mixture_counts([7, 5, 3], total)) == total


def test_no_row_comes_again_before_all_have_come() -> None:
    stream = [n for epoch in range(30) for n in passes(7, epoch * 3, 3, (0, 1))]
    for start in range(0, 84, 7):
        assert sorted(stream[start : start + 7]) == list(range(7))
    assert stream[:7] != stream[7:14]
    assert passes(7, 5, 0, (0,)) == []


@pytest.mark.parametrize("homogeneous", [False, True])
def test_plan_takes_the_counts_of_each_source(homogeneous: bool) -> None:
    lengths, counts = [[3, 9, 5], [2] * 10, [50, 40, 30, 20]], [6, 5, 4]
    plan = mixture_plan(lengths, counts, 4, homogeneous, seed=3)
    seen: Counter[int] = Counter()
    sizes = set()
    for epoch in range(4):
        batches = plan(epoch)
        assert batches == mixture_plan(lengths, counts, 4, homogeneous, seed=3)(epoch)
        sources = [[0 if row < 3 else 1 if row < 13 else 2 for row in batch] for batch in batches]
        assert Counter(s for batch in sources for s in batch) == {0: 6, 1: 5, 2: 4}
        assert all(len(set(batch)) == 1 for batch in sources) is homogeneous
        seen.update(row for batch in batches for row in batch)
        sizes.add(len(batches))
    assert len(sizes) == 1
    assert seen == {**dict.fromkeys(range(3), 8), **dict.fromkeys(range(3, 13), 2), **dict.fromkeys(range(13, 17), 4)}
    assert plan(0) != plan(1)


def sources(folder: Path) -> dict[str, Any]:
    made = {}
    for name, rows in (("short", 20), ("long", 6)):
        path = folder / f"{name}.jsonl"
        path.write_text(
            "\n".join(json.dumps({"prompt": f"{name}{i}", "completion": "!" * (i % 4)}) for i in range(rows))
        )
        made[name] = Instructions(str(path), val_fraction=0.2)
    return made


def module() -> SupervisedFineTuning:
    return SupervisedFineTuning({"config": LLAMA}, reduction="task", task_weights={"long": 2.0})


def test_examples_keep_their_source_and_their_template(tmp_path: Path) -> None:
    owner = module()
    made = Mixture(sources(tmp_path), weights={"long": 4.0}, batch_size=4, rows_per_epoch=20)
    made.trainer = type("T", (), {"lightning_module": owner})()
    made.setup("fit")
    assert made.counts() == {"short": 9, "long": 11}  # 16 to 5 x 4
    found: Counter[str] = Counter()
    for batch in made.train_dataloader():
        for ids, weights, task in zip(batch["input_ids"], batch["weights"], batch["tasks"].tolist(), strict=True):
            text = owner.tokenizer.decode(ids, skip_special_tokens=True)
            name = made.task_names[task]
            assert text.startswith(name)
            learned = owner.tokenizer.decode(ids[weights > 0])
            assert learned == text.lstrip("abcdefghijklmnopqrstuvwxyz0123456789") + owner.tokenizer.eos_token
            found[name] += 1
    assert found == made.counts()
    held_out = Counter(task for batch in made.val_dataloader() for task in batch["tasks"].tolist())
    assert held_out == {0: 4, 1: 1}


def test_what_cannot_be_mixed_is_refused(tmp_path: Path) -> None:
    made = sources(tmp_path)
    with pytest.raises(ConfigError, match="finished examples"):
        Mixture({"gaps": MixtureOfDenoisers("x")})
    for bad in ({"temperature": 0.5}, {"cap": 0}, {"rows_per_epoch": 0}, {"weights": {"lang": 1.0}}, {"sources": {}}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            Mixture(**{"sources": made, **bad})  # type: ignore[arg-type]
