"""What ``lit-ft show-batch`` prints."""

from types import SimpleNamespace

import torch

from lit_ft.command.show import render_batch
from lit_ft.command.show_batch import labels
from lit_ft.embedding.text_pairs import ECHO, encode_texts, padded
from lit_ft.language.answer_options import collate_options
from lit_ft.models.byte_tokenizer import byte_tokenizer
from lit_ft.tokens.segments import Segment, encode
from lit_ft.tokens.token_table import TokenTable, collate_packed, collate_padded

EXAMPLES = [
    [Segment("q\n"), Segment("ab", weight=1), Segment("c</s>", weight=-0.5)],
    [Segment("long question"), Segment("x", weight=1)],
]


def test_learned_tokens_stand_out() -> None:
    tokenizer = byte_tokenizer()
    table = TokenTable.of([encode(tokenizer, segments) for segments in EXAMPLES], [0, 1])
    rows = [table[0], table[1]]
    shown = render_batch(collate_padded(rows, 0), tokenizer, colour=False)
    assert "--- row 0\nq⏎\n[ab][c</s>]{-0.5}\n--- row 1\nlong question[x]" in shown
    assert shown.startswith("2 rows of 14 tokens; 5 of 20 tokens are learned, 29% of the batch is padding")
    packed = render_batch(collate_packed(rows, 0, 24), tokenizer, colour=False)
    assert packed.endswith("▌long question[x]▌q⏎\n[ab][c</s>]{-0.5}")
    assert "5 of 20 tokens are learned" in packed
    coloured = render_batch({"input_ids": torch.tensor([table[0]["input_ids"].tolist()])}, tokenizer)
    assert "\033[90mq⏎\nabc</s>\033[0m" in coloured


def test_pooled_tokens_stand_out() -> None:
    tokenizer = byte_tokenizer()
    shown = render_batch(padded(encode_texts(tokenizer, ["ab", "c"], list(ECHO), 8), 0), tokenizer, colour=False)
    assert "3 of 94 tokens are pooled" in shown
    assert "--- row 1\nRewrite the sentence: c, rewritten sentence: [c]" in shown


def test_each_option_is_a_row() -> None:
    tokenizer = byte_tokenizer()
    questions = [
        {"options": [encode(tokenizer, [Segment("q:"), Segment(text, weight=1)]) for text in texts], "label": 1,
         "row": 0, "context": None} for texts in (("a", "bcd"), ("e", "f", "g"))
    ]  # fmt: skip
    shown = render_batch(collate_options(questions, 0), tokenizer, colour=False)
    assert shown.startswith("5 rows of 5 tokens; 7 of 17 tokens are scored")
    assert "--- question 0, option 0\nq:[a]\n--- question 0, option 1 (right)\nq:[bcd]\n--- question 1, opt" in shown
    assert shown.endswith("... and 1 more rows")


def test_sides_and_labels_are_named() -> None:
    """Which answer is preferred or wanted, which text is the negative, which class a row has and where it stands."""
    tokenizer = byte_tokenizer()
    texts = padded(encode_texts(tokenizer, ["ab", "c", "d", "e", "f", "g"], None, 8), 0)
    weights = texts["attention_mask"].float()
    pairs = {**texts, "weights": weights, "pair_weights": torch.ones(3), "rows": torch.tensor([2, 0, 1] * 2)}
    data = SimpleNamespace(class_names=["ham", "spam"], numbers={"train": [7, 8, 9]})
    shown = render_batch(pairs, tokenizer, colour=False, data=data)
    assert "--- row 0 (9 of the table), chosen\n[ab]\n--- row 0 (9 of the table), rejected\n[e]" in shown
    assert "--- row 1 (7 of the table), chosen\n[c]" in shown
    answers = {**texts, "weights": weights, "desirable": torch.tensor([True, False, True])}
    shown = render_batch(answers, tokenizer, colour=False, rows=6)
    assert "--- row 1, unwanted\n[c]\n--- row 1, with the answer of another row\n[f]" in shown
    triplets = {**texts, "keys": torch.arange(6).reshape(2, 3)}
    shown = render_batch(triplets, tokenizer, colour=False)
    assert "--- row 0, anchor\n[ab]\n--- row 0, positive\n[d]\n--- row 0, negative 1\n[f]" in shown
    classes = {**{key: texts[key] for key in ("input_ids", "attention_mask")}, "labels": torch.tensor([1, 0] * 3)}
    shown = render_batch(classes, tokenizer, colour=False, data=data)
    assert shown.startswith(
        "6 rows of 2 tokens; the label is learned, 42% of the batch is padding\nclasses: 0 ham, 1 s"
    )
    assert "--- row 0, label spam\nab" in shown
    assert "--- row 0, label 2.5\n" in render_batch(classes | {"labels": torch.full((6,), 2.5)}, tokenizer, data=data)


def test_classes_of_pictures_are_named() -> None:
    data = SimpleNamespace(class_names=["cat", "dog"])
    batch = {"images": torch.zeros(3, 1, 2, 2), "labels": torch.tensor([1, 0, 1])}
    assert labels(batch, data) == ["classes: 0 cat, 1 dog", "labels: dog, cat, dog"]
    assert labels({"images": batch["images"]}, data) == []
