"""Answers and rules against a loop that writes token by token."""

import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lit_ft.core.errors import ConfigError
from lit_ft.data import Instructions
from lit_ft.language.rules import ResponseRules
from lit_ft.methods import TextGeneration

LLAMA = {
    "model_type": "llama", "tokenizer": "bytes", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.4,
}  # fmt: skip
PROMPTS = ["a question?", "b", "why is that so, and since when?"]


def method(**arguments: Any) -> TextGeneration:
    torch.manual_seed(3)
    made = TextGeneration({"config": dict(LLAMA)}, **{"max_new_tokens": 12, **arguments})  # type: ignore[arg-type]
    made.configure_model()
    return made.eval()


def ids_of(owner: TextGeneration, text: str) -> list[int]:
    return owner.tokenizer(text, add_special_tokens=False)["input_ids"]


def by_hand(owner: TextGeneration, prompt: list[int], rules: ResponseRules | None) -> list[int]:
    """The likeliest token again and again, by a forward over all there is."""
    ids, end = list(prompt), owner.tokenizer.eos_token_id
    for new in range(12):
        logits = owner.network(torch.tensor([ids])).logits[0, -1]  # type: ignore[misc]
        if rules is not None:
            logits = logits.clone()
            for token in set(ids):
                logits[token] -= rules.repeat_penalty
            for text, value in (rules.token_bias or {}).items():
                logits[ids_of(owner, text)[0]] += value
            logits[end] += rules.end_bonus * min(1.0, new / rules.end_after)
        token = int(logits.argmax())
        if token == end:
            break
        ids.append(token)
    return ids[len(prompt) :]


@pytest.mark.parametrize(
    "rules",
    [
        None,
        ResponseRules(0.0, 250, 0.0),
        ResponseRules(0.0, 250, 1.5),
        ResponseRules(40.0, 8, 0.5, {"e": 3.0, "a": -4.0}),
    ],
    ids=["none", "zero", "repeat", "all"],
)
def test_equals_a_loop_over_each_prompt_alone(rules: ResponseRules | None) -> None:
    owner = method(rules=rules)
    prompts = [ids_of(owner, prompt) for prompt in PROMPTS]
    expected = [by_hand(owner, prompt, rules) for prompt in prompts]
    assert [answers[0] for answers in owner.generate(prompts)] == expected
    if rules is not None and rules.end_bonus:
        assert all(len(answer) < 12 for answer in expected)


def test_a_tokenizer_without_padding_and_end() -> None:
    owner = method()
    owner.tokenizer.pad_token = owner.tokenizer.eos_token = None
    owner.network.generation_config.eos_token_id = None  # type: ignore[union-attr]
    prompts = [ids_of(owner, prompt) for prompt in PROMPTS]
    expected = [by_hand(owner, prompt, None) for prompt in prompts]
    assert [answers[0] for answers in owner.generate(prompts)] == expected


def test_rules_add_up_and_the_end_gets_ever_likelier() -> None:
    owner = method()
    prompts = torch.tensor([ids_of(owner, "abca")])
    scores = torch.randn(1, 300)
    end, chances = owner.tokenizer.eos_token_id, []
    process = ResponseRules(15.0, 10, 0.0).bind(owner.tokenizer, torch.ones_like(prompts))
    for new in range(14):
        ids = torch.cat([prompts, torch.full((1, new), 7)], 1)
        chances.append(float(process(ids, scores).log_softmax(-1)[0, end]))
    assert all(later > earlier for earlier, later in itertools.pairwise(chances[:11]))
    assert chances[10] == chances[13]
    torch.testing.assert_close(process(prompts, scores), scores)  # nothing yet at the first token
    padded = torch.tensor([[0, 0, *prompts[0].tolist()]])
    process = ResponseRules(0.0, 10, 1.5).bind(owner.tokenizer, (padded != 0).long())
    fallen = (process(padded, scores) - scores)[0]
    assert set(fallen.nonzero().flatten().tolist()) == set(prompts[0].tolist())  # each once, padding not
    torch.testing.assert_close(fallen[prompts[0]], torch.full((4,), -1.5))


def test_writes_rows_with_their_answers(tmp_path: Path) -> None:
    rows = [{"prompt": prompt, "completion": f" answer {i}"} for i, prompt in enumerate(PROMPTS)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    owner = method(temperature=1.0, samples=3)
    data = Instructions(str(path), val_fraction=0.0)
    data.trainer = type("T", (), {"lightning_module": owner})()
    data.setup("predict")
    torch.manual_seed(0)
    found = [row for batch in data.predict_dataloader() for row in owner.predict_step(batch, 0)]
    order = [data._tables()["train"][row["row"]] for row in found]
    assert [row["prompt"] for row in found] == [row["prompt"] for row in order]
    assert [row["expected"] for row in found] == [row["completion"] for row in order]
    assert all(len(row["answers"]) == 3 for row in found)
    assert len({answer for row in found for answer in row["answers"]}) > 3
    json.dumps(found)


def test_bad_settings_are_refused() -> None:
    for bad in ({"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"samples": 2}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            TextGeneration({"config": LLAMA}, **bad)  # type: ignore[arg-type]
    for bad in ({"end_bonus": -1.0}, {"end_after": 0}, {"repeat_penalty": -1.0}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            ResponseRules(**bad)  # type: ignore[arg-type]
    owner = method(rules=ResponseRules(token_bias={"two": 1.0}))
    with pytest.raises(ConfigError, match="one token"):
        owner.generate([[5]])


def test_a_row_without_a_prompt_is_named() -> None:
    owner = method()
    with pytest.raises(ConfigError, match="at least one token in each"):
        owner.generate([[5], []])
    ids = torch.tensor([[5, 6], [7, 8]])
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "weights": torch.tensor([[0.0, 1.0], [1.0, 1.0]]),
        "rows": torch.tensor([3, 9]),
    }
    with pytest.raises(ConfigError, match="row 9"):
        owner.predict_step(batch, 0)


def test_no_bonus_goes_to_an_end_that_there_is_not() -> None:
    endless: Any = SimpleNamespace(eos_token_id=None)
    prompts, scores = torch.tensor([[5, 6, 7]]), torch.randn(1, 300)
    with pytest.raises(ConfigError, match="end_bonus"):
        ResponseRules().bind(endless, torch.ones_like(prompts))
    process = ResponseRules(0.0, 1, 0.0).bind(endless, torch.ones_like(prompts))
    assert torch.equal(process(prompts, scores), scores)
