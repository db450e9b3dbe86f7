"""What ``lit-ft show-batch`` prints."""

import torch

from lit_ft.command.show import render_batch
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
