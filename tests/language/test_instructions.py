"""Rows of a user's own file as they come: every row that cannot be learned from is named, nothing is silent."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from lit_ft.core.errors import ConfigError
from lit_ft.data import Instructions
from lit_ft.models.byte_tokenizer import byte_tokenizer

QUESTION = {"role": "user", "content": "question"}
ANSWERED = {"messages": [QUESTION, {"role": "assistant", "content": "answer"}]}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_FT_CACHE", str(tmp_path / "cache"))


def ready(folder: Path, rows: list[Any], words: Any = None, **arguments: Any) -> Instructions:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    made = Instructions(str(path), **{"val_fraction": 0.0, "max_length": 64, **arguments})
    made.trainer = type("T", (), {"lightning_module": type("M", (), {"tokenizer": words or byte_tokenizer()})()})()
    made.setup("fit")
    return made


@pytest.mark.parametrize(
    ("good", "bad", "complaint"),
    [
        ({"prompt": "a", "completion": "b"}, {"prompt": "a"}, r"row 57 has prompt\)"),
        ({"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": None}, r"has prompt, completion \(empty"),
        ({"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": ["b"]}, "'completion', not a list.* row 57"),
        (ANSWERED, {"prompt": [QUESTION], "completion": ["b"]}, "a list of {role, content} in row 57"),
        ({"text": "a"}, {}, "row 57 has no column"),
        ({"text": "a"}, {"text": {"a": 1}}, "a text in 'text', .* row 57"),
        (ANSWERED, {"messages": "hello"}, "a list of {role, content} in row 57"),
        (ANSWERED, {"messages": ["hello"]}, "a list of {role, content} in row 57"),
        (ANSWERED, {"messages": []}, "row 57"),
        (ANSWERED, {"messages": [QUESTION, {"role": "assistant"}]}, "row 57 has none"),
        (ANSWERED, {"messages": [{"role": "asistant", "content": ""}]}, "row 57 .did you mean 'assistant'"),
        (ANSWERED, {"messages": [QUESTION, {"role": "assistant", "content": "", "weight": "high"}]}, "number.* row 57"),
    ],
)  # fmt: skip
def test_a_row_that_is_not_in_order_is_named(tmp_path: Path, good: Any, bad: Any, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        ready(tmp_path, [*[good] * 56, bad, *[good] * 3])


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "a", "completion": ""},
        {"prompt": "a", "completion": " \n"},
        {"text": ""},
        {"messages": [QUESTION, {"role": "assistant", "content": ""}]},
    ],
)
def test_empty_answers_are_counted_every_time(tmp_path: Path, row: Any) -> None:
    rows = [{"prompt": "a", "completion": "b"}, {"text": "c"}, ANSWERED, row, row]
    for _ in range(2):  # the second time tokens come from the cache
        with pytest.warns(UserWarning, match="2 of 5 train rows have an empty answer, which is learned: 4, 5"):
            ready(tmp_path, rows)


def test_what_stands_in_the_file_is_what_is_learned(tmp_path: Path) -> None:
    """Characters of several bytes, line separators, numbers; and one row alone is enough."""
    tokenizer = byte_tokenizer()
    for answer in ("Grüße 你好 🎉", "a\u2028b\r\nc", 12):
        (example,) = ready(tmp_path, [{"prompt": "p: ", "completion": answer}]).examples["train"]
        learned = example["input_ids"][example["weights"] == 1].tolist()
        assert learned == [*tokenizer(str(answer))["input_ids"], tokenizer.eos_token_id]


def test_rows_that_are_cut_are_counted(tmp_path: Path) -> None:
    rows = [{"text": "a" * length} for length in (3, 100, 10, 200)]
    for _ in range(2):
        with pytest.warns(
            UserWarning,
            match=r"2 of 4 train examples are longer than max_length = 64 and are cut, which loses \d+ % of .*: 201 ",
        ):
            ready(tmp_path, rows)


def test_which_token_ends_a_text_is_part_of_what_is_cached(tmp_path: Path) -> None:
    """A base model and its chat model may share a vocabulary and differ in their end of text."""
    rows, words = [{"prompt": "p", "completion": "c"}], byte_tokenizer()
    ends = []
    for token in ("</s>", "<sep>", None):
        words.eos_token = token
        if token is None:
            with pytest.warns(UserWarning, match="no end-of-text token"):
                made = ready(tmp_path, rows, words)
        else:
            made = ready(tmp_path, rows, words)
        ends.append(words.decode(made.examples["train"][0]["input_ids"][1:]))
    assert ends == ["c</s>", "c<sep>", "c"]


@pytest.mark.parametrize("weight", [math.nan, math.inf, "nan", "-inf"])
def test_a_weight_that_is_no_finite_number_names_the_row(weight: Any, tmp_path: Path) -> None:
    rows = [{"prompt": "q", "completion": "a", "w": 1.0} for _ in range(4)]
    rows[2]["w"] = weight
    with pytest.raises(ConfigError, match=r"weight: given .*; allowed: a finite number; see row 3"):
        ready(tmp_path, rows, weight_column="w")
