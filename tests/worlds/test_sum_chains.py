"""Sums and their chains: every step follows from the one before it, save the one that is given wrong."""

import pytest

from lit_ft.core.errors import ConfigError
from lit_ft.data import SumChains
from lit_ft.methods import SupervisedFineTuning

NETWORK = {"config": {"model_type": "llama", "tokenizer": "bytes", "hidden_size": 16, "num_hidden_layers": 1,
                      "num_attention_heads": 2, "intermediate_size": 16}}  # fmt: skip


def prepared(**arguments: object) -> SumChains:
    data = SumChains(**arguments)  # type: ignore[arg-type]
    data.trainer = type("T", (), {"lightning_module": SupervisedFineTuning(NETWORK)})()  # type: ignore[arg-type]
    data.setup("fit")
    return data


def test_chains_are_running_sums_and_the_test_is_misled() -> None:
    data = prepared(chains=40, terms=[3, 5], asked=30)
    lengths = set()
    for split, table in data.examples.items():
        for example in (table[i] for i in range(len(table))):
            learned = example["weights"] > 0
            said, answer = (data.tokenizer.decode(example["input_ids"][part]) for part in (~learned, learned))
            assert answer.endswith("</s>")
            question, _, given = said.partition("=")
            digits = [int(d) for d in question.split("+")]
            lengths.add(len(digits))
            right = [sum(digits[: i + 1]) % 10 for i in range(len(digits))]
            steps = [int(s) for s in given.rstrip(";").split(";")] if given else []
            assert [int(s) for s in answer.removesuffix("</s>").split(";")] == right[len(steps) :]
            assert bool(steps) == (split == "test")
            if steps:
                assert steps[:-1] == right[: len(steps) - 1]
                assert steps[-1] != right[len(steps) - 1]
                assert 2 <= len(steps) < len(right)
    assert lengths == {3, 5}


def test_seeds_differ_and_settings_are_checked() -> None:
    first, again, other = (prepared(chains=5, asked=1, seed=seed).examples["train"].ids for seed in (0, 0, 1))
    assert first.equal(again)
    assert not first.equal(other)
    for wrong in ({"chains": 0}, {"asked": 0}, {"terms": []}, {"terms": [2, 5]}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            SumChains(**wrong)  # type: ignore[arg-type]
